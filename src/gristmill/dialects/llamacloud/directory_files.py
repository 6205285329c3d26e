"""`/api/v1/beta/directories/{id}/files`: what is in a directory, by id or by upload, with its owner's names for it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.multipart import FilePart
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.upload import Upload
from gristmill.dialects import base
from gristmill.dialects.llamacloud import files as dialect_files
from gristmill.dialects.llamacloud import pages, words
from gristmill.dialects.llamacloud.directories import PATH, id_of
from gristmill.dialects.llamacloud.words import Lenient
from gristmill.domain.errors import NotFound
from gristmill.intake import json, problems
from gristmill.store import directories
from gristmill.store.directories import Entry
from gristmill.store.keys import Key

_PATH = PATH + "/{directory_id}/files"
_FILTERS = ("display_name", "display_name_contains", "file_id", "unique_id")
_MAX_BODY_BYTES = 64 * 1024

router = APIRouter(include_in_schema=False)

Value = str | int | float | bool | None | list[str]


class EntryFacts(Lenient):
    """What an owner may say of a file in a directory."""

    display_name: str | None = Field(None, min_length=1, max_length=256)
    unique_id: str | None = Field(None, min_length=1, max_length=256)
    metadata: dict[str, Value] | None = Field(None, max_length=256)

    def kept(self) -> str:
        return words.facts(unique_id=self.unique_id, metadata=self.metadata)


class EntryBody(EntryFacts):
    file_id: str


def view(request: Request, key: Key, directory_id: UUID, entry: Entry) -> dict[str, Any]:
    facts, added = words.facts_of(entry.dialect_facts), words.instant(entry.added_at)
    with_link = "download_url" in pages.expanded(request)
    return {
        "id": words.outward(words.DIRECTORY_FILE, entry.file.id),
        "directory_id": words.outward(words.DIRECTORY, directory_id),
        "project_id": words.project_of(key),
        "display_name": entry.name,
        "unique_id": facts.get("unique_id", entry.name),
        "file_id": str(entry.file.id),
        "metadata": facts.get("metadata", {}),
        "download_url": dialect_files.link(request, key, entry.file.id) if with_link else None,
        "created_at": added,
        "updated_at": added,
        "deleted_at": None,
    }


def _entry_id(text: str) -> UUID:
    return words.inward(words.DIRECTORY_FILE, text)


# --- into it --------------------------------------------------------------------------------------------------


@router.post(_PATH)
async def add_file(request: Request, directory_id: str) -> Response:
    """A file that was uploaded before. One that is in it already stays as it is."""
    key = await caller(request, "files:write")
    given = await body.read_model(request, EntryBody, _MAX_BODY_BYTES)
    of, directory = parts(request), id_of(directory_id)
    file = await dialect_files.find(of, key, given.file_id)
    names = {file.id: given.display_name or file.filename}
    async with of.database.engine.begin() as connection:
        await directories.add(connection, key.tenant_id, directory, names, facts=given.kept())
        entry = await directories.entry(connection, key.tenant_id, directory, file.id)
    return as_json(view(request, key, directory, entry))


@router.post(_PATH + "/upload")
async def upload_file(request: Request, directory_id: str) -> Response:
    """A form with the part `upload_file`, and what is to be known of it beside it. The file is in the directory, or there is
    none."""
    key = await caller(request, "files:write")
    of, directory = parts(request), id_of(directory_id)
    async with of.database.engine.connect() as connection:
        await directories.get(connection, key.tenant_id, directory)
    async with Upload(of, key.tenant_id) as upload:
        form = FilePart(called="upload_file", lenient=True)
        new = await dialect_files.received(request, upload, form)
        given = _facts(form.texts)
        async with of.database.engine.begin() as connection:
            [file] = await upload.add(connection, [new])
            names = {file.id: given.display_name or file.filename}
            await directories.add(connection, key.tenant_id, directory, names, facts=given.kept())
            entry = await directories.entry(connection, key.tenant_id, directory, file.id)
        upload.kept()
    return as_json(view(request, key, directory, entry))


def _facts(values: dict[str, str]) -> EntryFacts:
    """In a form the metadata are JSON text. Without a `unique_id` the caller's own id of the file is one."""
    given: dict[str, Any] = {name: values[name] for name in ("display_name", "unique_id") if values.get(name)}
    if external := values.get("external_file_id"):
        given.setdefault("unique_id", external)
    if text := values.get("metadata"):
        given["metadata"] = json.parse(text.encode(), dict)
    return problems.checked(EntryFacts, given)


# --- what is in it --------------------------------------------------------------------------------------------


@router.get(_PATH)
async def list_files(request: Request, directory_id: str) -> Response:
    """Newest files first."""
    key = await caller(request, "files:read")
    query = Query(request, (*pages.PARAMETERS, *_FILTERS), lenient=True)
    wanted = {name: query.text(name) for name in _FILTERS}
    directory = id_of(directory_id)
    page = pages.asked(request, query, key, f"llamacloud/{directory}")

    async def fetch(limit: int, before: UUID | None) -> Sequence[Entry]:
        async with parts(request).database.engine.connect() as connection:
            found, _ = await directories.entries(
                connection, key.tenant_id, directory, limit=limit, offset=0, before=before
            )
        return found

    def matches(entry: Entry) -> bool:
        return _matches(entry, wanted)

    chosen = matches if any(wanted.values()) else None
    shown, last = await pages.List(fetch, lambda entry: entry.file.id).page(page, chosen)
    items = [view(request, key, directory, one) for one in shown]
    return pages.listing(request, key, page, items, last)


def _matches(entry: Entry, wanted: dict[str, str | None]) -> bool:
    unique_id = words.facts_of(entry.dialect_facts).get("unique_id", entry.name)
    part = wanted["display_name_contains"]
    return (
        wanted["display_name"] in (None, entry.name)
        and (part is None or part.lower() in entry.name.lower())
        and wanted["file_id"] in (None, str(entry.file.id))
        and wanted["unique_id"] in (None, unique_id)
    )


@router.get(_PATH + "/{directory_file_id}")
async def get_file(request: Request, directory_id: str, directory_file_id: str) -> Response:
    key = await caller(request, "files:read")
    directory, file_id = id_of(directory_id), _entry_id(directory_file_id)
    async with parts(request).database.engine.connect() as connection:
        entry = await directories.entry(connection, key.tenant_id, directory, file_id)
    return as_json(view(request, key, directory, entry))


@router.delete(_PATH + "/{directory_file_id}", status_code=204)
async def remove_file(request: Request, directory_id: str, directory_file_id: str) -> Response:
    """The file itself stays."""
    key = await caller(request, "files:write")
    await base.ignore_body(request)
    directory, file_id = id_of(directory_id), _entry_id(directory_file_id)
    async with parts(request).database.engine.begin() as connection:
        if not await directories.take_out(connection, key.tenant_id, directory, [file_id]):
            raise NotFound("no such file in this directory")
    return Response(status_code=204)
