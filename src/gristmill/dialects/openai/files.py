"""`/v1/files`: our files in OpenAI's words, and the outputs of batches beside them."""

from enum import StrEnum
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gristmill.api import body, content, incoming
from gristmill.api.auth import caller, check
from gristmill.api.envelope import as_json
from gristmill.api.multipart import FilePart
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.upload import Upload, discard
from gristmill.dialects.base import inward, outward, position
from gristmill.dialects.openai import outputs
from gristmill.dialects.openai.words import FILE, unix
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.storage.base import file_key
from gristmill.store import files
from gristmill.store.files import File, Filter

PURPOSES = ("batch", "assistants", "fine-tune", "vision", "user_data", "evals")
LIFETIMES = range(3600, 2_592_000 + 1)  # seconds
_MOST = 10_000
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"

router = APIRouter(prefix="/v1/files", include_in_schema=False)


class Order(StrEnum):
    ASC = "asc"
    DESC = "desc"


def view(file: File) -> dict[str, Any]:
    return {
        "id": outward(FILE, file.id),
        "object": "file",
        "bytes": file.size,
        "created_at": unix(file.created_at),
        "expires_at": unix(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose or "user_data",
        "status": "processed",
        "status_details": None,
    }


@router.post("")
async def upload_file(request: Request) -> Response:
    key = await caller(request, "files:write")
    of = parts(request)
    body.check_not_encoded(request)
    form = FilePart(lenient=True)
    async with Upload(of, key.tenant_id) as upload:
        [file_id] = await upload.expect()
        inspection = await upload.bring(file_id, incoming.form_pieces(request, form))
        purpose, lifetime = _purpose(form.texts), _lifetime(form.texts)
        name = incoming.name_of(form.filename or "")
        new = incoming.new_file(file_id, name, inspection, purpose=purpose)
        async with of.database.engine.begin() as connection:
            [file] = await upload.add(connection, [new], lifetime_seconds=lifetime)
        upload.kept()
    return as_json(view(file))


def _purpose(texts: dict[str, str]) -> str:
    purpose = texts.get("purpose")
    if purpose not in PURPOSES:
        raise Invalid([Problem("purpose", "invalid_purpose", f"purpose: one of {', '.join(PURPOSES)}")])
    return purpose


def _lifetime(texts: dict[str, str]) -> int | None:
    """Seconds; None: nothing was said."""
    if _ANCHOR not in texts and _SECONDS not in texts:
        return None
    seconds = texts.get(_SECONDS, "")
    if texts.get(_ANCHOR) != "created_at":
        raise Invalid([Problem(_ANCHOR, "invalid_value", f"{_ANCHOR}: must be created_at")])
    if not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 8 and int(seconds) in LIFETIMES):
        detail = f"{_SECONDS}: {LIFETIMES.start} to {LIFETIMES.stop - 1}"
        raise Invalid([Problem(_SECONDS, "out_of_range", detail)])
    return int(seconds)


@router.get("")
async def list_files(request: Request) -> Response:
    """Uploads only: the outputs of batches are named by their batches."""
    key = await caller(request, "files:read")
    query = Query(request, ("after", "limit", "order", "purpose"), lenient=True)
    limit = query.integer("limit", 1, _MOST, _MOST)
    order = query.choice("order", Order)
    purpose = query.text("purpose")
    after = position(query, "after", FILE)
    query.check()
    async with parts(request).database.engine.connect() as connection:
        found, _ = await files.page(
            connection,
            key.tenant_id,
            Filter(purpose=purpose),
            limit=limit + 1,
            before=after,
            oldest_first=order is Order.ASC,
        )
    return as_json(listing([view(file) for file in found[:limit]], more=len(found) > limit))


def listing(shown: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Clients follow `has_more` with the id of the last record."""
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": more}


@router.get("/{file_id}")
async def get_file(request: Request, file_id: str) -> Response:
    key = await caller(request, "files:read")
    of = parts(request)
    if (output := outputs.asked(file_id)) is not None:
        check(key, "batches:read")  # results of a batch, whatever they are called
        found = await outputs.find(of, key.tenant_id, *output)
        return as_json(await found.view(of))
    async with of.database.engine.connect() as connection:
        return as_json(view(await files.get(connection, key.tenant_id, inward(FILE, file_id))))


@router.get("/{file_id}/content")
async def get_content(request: Request, file_id: str) -> Response:
    key = await caller(request, "files:read")
    of = parts(request)
    if (output := outputs.asked(file_id)) is not None:
        check(key, "batches:read")
        found = await outputs.find(of, key.tenant_id, *output)
        return StreamingResponse(found.lines(of), media_type="application/octet-stream")
    async with of.database.engine.connect() as connection:
        file = await files.get(connection, key.tenant_id, inward(FILE, file_id))
    return await content.content(request, file_key(key.tenant_id, file.id), file)


@router.delete("/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    key = await caller(request, "files:write")
    of = parts(request)
    if (output := outputs.asked(file_id)) is not None:
        check(key, "batches:write")
        await (await outputs.find(of, key.tenant_id, *output)).delete(of)
    else:
        found = inward(FILE, file_id)
        async with of.database.engine.begin() as connection:
            if not await files.remove(connection, key.tenant_id, [found]):
                raise NotFound("no such file")
        await discard(of, key.tenant_id, [found])
    return as_json({"id": file_id, "object": "file", "deleted": True})
