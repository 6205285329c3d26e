"""`/api/v1/beta/files`: the tenant's files, and uploads in the forms that this system's clients send."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, incoming, links
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.files import id_of
from gristmill.api.multipart import FilePart
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.upload import Upload, discard
from gristmill.dialects import base
from gristmill.dialects.llamacloud import pages, words
from gristmill.domain.errors import NotFound
from gristmill.store import files
from gristmill.store.files import File, Filter, NewFile
from gristmill.store.keys import Key

_PATH = "/api/v1/beta/files"
_MAX_PURPOSE = 256
_MAX_IDS = 1000

router = APIRouter(include_in_schema=False)


def view(request: Request, key: Key, file: File) -> dict[str, Any]:
    """`external_file_id` is not kept: what correlates a file in a directory is its `unique_id` there."""
    return {
        "id": str(file.id),
        "name": file.filename,
        "project_id": words.project_of(key),
        "file_type": PurePath(file.filename).suffix.removeprefix(".").lower() or None,
        "purpose": file.purpose,
        "external_file_id": None,
        "expires_at": words.instant(file.expires_at),
        "last_modified_at": words.instant(file.created_at),
        "download_url": link(request, key, file.id) if "download_url" in pages.expanded(request) else None,
    }


def link(request: Request, key: Key, file_id: UUID, seconds: int = links.DEFAULT_SECONDS) -> dict[str, Any]:
    made = links.made(request, key.tenant_id, file_id, seconds)
    return {**made, "expires_at": words.instant(made["expires_at"]), "form_fields": None}


async def find(of: Parts, key: Key, file_id: str) -> File:
    """Raises NotFound."""
    async with of.database.engine.connect() as connection:
        return await files.get(connection, key.tenant_id, id_of(file_id))


# --- uploads --------------------------------------------------------------------------------------------------


async def received(request: Request, upload: Upload, form: FilePart, purpose: str | None = None) -> NewFile:
    """The file of a form; its bytes are in the storage, and the values beside it are in the form. Raises Invalid, TooLarge."""
    body.check_not_encoded(request)
    [file_id] = await upload.expect()
    inspection = await upload.bring(file_id, incoming.form_pieces(request, form))
    purpose = (form.texts.get("purpose") or purpose or "")[:_MAX_PURPOSE] or None
    return incoming.new_file(file_id, incoming.name_of(form.filename or ""), inspection, purpose=purpose)


@router.post(_PATH)
async def create_file(request: Request) -> Response:
    """A form with the part `file`, and `purpose` beside it."""
    key = await caller(request, "files:write")
    of = parts(request)
    async with Upload(of, key.tenant_id) as upload:
        new = await received(request, upload, FilePart(lenient=True))
        async with of.database.engine.begin() as connection:
            [file] = await upload.add(connection, [new])
        upload.kept()
    return as_json(view(request, key, file))


# --- the rest -------------------------------------------------------------------------------------------------


@router.get(_PATH)
async def list_files(request: Request) -> Response:
    """Newest first, however they are to be ordered."""
    key = await caller(request, "files:read")
    query = Query(request, (*pages.PARAMETERS, "file_name"), lenient=True)
    name = query.text("file_name")
    page = pages.asked(request, query, key, "llamacloud/files")
    wanted = Filter(named=name or None, ids=_ids(request.query_params.getlist("file_ids")))

    async def fetch(limit: int, before: UUID | None) -> Sequence[File]:
        async with parts(request).database.engine.connect() as connection:
            found, _ = await files.page(
                connection, key.tenant_id, wanted, limit=limit, offset=0, before=before
            )
        return found

    shown, last = await pages.List(fetch, lambda file: file.id).page(page)
    return pages.listing(request, key, page, [view(request, key, one) for one in shown], last)


def _ids(given: Sequence[str]) -> list[UUID] | None:
    """None: of all files; what cannot be an id is none's."""
    found = [uuid_of(one) for one in given[:_MAX_IDS]]
    return [one for one in found if one is not None] if given else None


@router.get(_PATH + "/{file_id}")
async def get_file(request: Request, file_id: str) -> Response:
    key = await caller(request, "files:read")
    return as_json(view(request, key, await find(parts(request), key, file_id)))


@router.get(_PATH + "/{file_id}/content")
async def get_content(request: Request, file_id: str) -> Response:
    """Where the bytes are to be had without a key, for a while."""
    key = await caller(request, "files:read")
    query = Query(request, ("expires_at_seconds",), lenient=True)
    seconds = query.integer("expires_at_seconds", 1, links.MAX_SECONDS, links.DEFAULT_SECONDS)
    query.check()
    file = await find(parts(request), key, file_id)
    return as_json(link(request, key, file.id, seconds))


@router.delete(_PATH + "/{file_id}", status_code=204)
async def delete_file(request: Request, file_id: str) -> Response:
    """Out of every directory, too."""
    key = await caller(request, "files:write")
    await base.ignore_body(request)
    of, found = parts(request), id_of(file_id)
    async with of.database.engine.begin() as connection:
        if not await files.remove(connection, key.tenant_id, [found]):
            raise NotFound("no such file")
    await discard(of, key.tenant_id, [found])
    return Response(status_code=204)
