"""Files: uploaded here, attached to requests by their id."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from gristmill.api import body, pages
from gristmill.api.auth import caller
from gristmill.api.envelope import answer, listing
from gristmill.api.multipart import FIELD, FilePart
from gristmill.api.openapi import (
    LIST,
    PAGE,
    READ,
    WRITE,
    documented,
    enveloped,
    paged,
    parameter,
    ref,
    responses,
)
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.upload import Upload
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.domain.ids import uuid7
from gristmill.store import files
from gristmill.store.files import File

_MULTIPART = "multipart/form-data"
_MULTIPART_OVERHEAD_BYTES = 64 * 1024  # boundaries and headers around the file itself
_MAX_NAME = 256

router = APIRouter(prefix="/api/v1/files", tags=["Files"])


def view(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "filename": file.filename,
        "media_type": file.media_type,
        "bytes": file.size,
        "sha256": file.sha256.hex(),
        "created_at": file.created_at,
    }


def _id_of(file_id: str) -> UUID:
    found = uuid_of(file_id)
    if found is None:
        raise NotFound("no such file")
    return found


_UPLOAD_BODY = {
    "required": True,
    "content": {
        _MULTIPART: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "string", "format": "binary"}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


@router.post(
    "",
    status_code=201,
    summary="Upload a file",
    responses=responses(*WRITE),
    openapi_extra=documented(
        parameter(
            "filename", {"type": "string"}, "The name, when the body is the file itself and not a form"
        ),
        body=_UPLOAD_BODY,
        answer=enveloped(ref("FileAnswer")),
        status=201,
    ),
)
async def upload_file(request: Request) -> Response:
    """As a form with one part called `file`, or as the body itself with `?filename=`. Streamed, whole or not at all."""
    key = await caller(request, "files:write")
    query = Query(request, ("filename",))
    query.check()
    body.check_not_encoded(request)
    of, file_id = parts(request), uuid7()
    async with Upload(files.path(of.settings.data_dir, key.tenant_id, file_id)) as upload:
        filename = await _receive(request, query, upload)
        _check_size(of, upload)
        await upload.keep()
        file = await _record(of, key.tenant_id, file_id, filename, upload)
    return answer(view(file), 201, headers={"Location": f"/api/v1/files/{file_id}"})


async def _receive(request: Request, query: Query, upload: Upload) -> str:
    """Writes the file and answers with its name."""
    max_bytes = parts(request).settings.upload_max_bytes
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == _MULTIPART:
        form = FilePart()
        incoming = body.stream(request, max_bytes + _MULTIPART_OVERHEAD_BYTES)
        await upload.write(_named_first(form, form.pieces(content_type, incoming)))
        return _name(form.filename or "")
    name = _name(query.text("filename") or "")
    await upload.write(body.stream(request, max_bytes))
    return name


async def _named_first(form: FilePart, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Refuses a bad name before anything is written."""
    async for piece in pieces:
        _name(form.filename or "")
        yield piece


def _name(given: str) -> str:
    """What browsers and others send as a path becomes its last part. Raises Invalid."""
    name = given.replace("\\", "/").rpartition("/")[2]
    if not name:
        raise Invalid([Problem("filename", "missing", "the file needs a name")])
    if len(name) > _MAX_NAME:
        raise Invalid([Problem("filename", "string_too_long", f"at most {_MAX_NAME} characters")])
    if "\0" in name:
        raise Invalid([Problem("filename", "nul_character", "the character NUL cannot be stored")])
    return name


def _check_size(of: Parts, upload: Upload) -> None:
    if upload.size > of.settings.upload_max_bytes:
        raise body.too_large(of.settings.upload_max_bytes)
    if upload.size == 0:
        raise Invalid([Problem(FIELD, "empty_file", "the file is empty")])


async def _record(of: Parts, tenant_id: UUID, file_id: UUID, filename: str, upload: Upload) -> File:
    try:
        async with of.database.engine.begin() as connection:
            return await files.add(
                connection,
                tenant_id,
                file_id,
                filename=filename,
                media_type=upload.media_type(filename),
                size=upload.size,
                sha256=upload.sha256,
            )
    except BaseException:
        upload.path.unlink(missing_ok=True)
        raise


@router.get(
    "",
    summary="List files",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("FileAnswer"))),
)
async def list_files(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "files:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, "files")
    before = UUID(page.position) if page.position else None
    async with parts(request).database.engine.connect() as connection:
        found, total = await files.page(
            connection, key.tenant_id, limit=page.fetch, offset=page.skip, before=before
        )
    rows = pages.rows(page, found, total, lambda file: file.id)
    return listing([view(one) for one in rows.shown], pages.pagination(request, query, key, page, rows))


@router.get(
    "/{file_id}",
    summary="Get a file's description",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("FileAnswer"))),
)
async def get_file(request: Request, file_id: str) -> Response:
    key = await caller(request, "files:read")
    Query(request, ()).check()
    async with parts(request).database.engine.connect() as connection:
        return answer(view(await files.get(connection, key.tenant_id, _id_of(file_id))))


@router.get(
    "/{file_id}/content",
    summary="Download a file",
    responses={**responses(*READ), 200: {"content": {"application/octet-stream": {}}}},
    openapi_extra=documented(),
)
async def get_content(request: Request, file_id: str) -> Response:
    """The bytes as they came. Always as a download: nothing of a caller's is shown under this origin."""
    key = await caller(request, "files:read")
    Query(request, ()).check()
    of = parts(request)
    async with of.database.engine.connect() as connection:
        file = await files.get(connection, key.tenant_id, _id_of(file_id))
    path = files.path(of.settings.data_dir, key.tenant_id, file.id)
    if not await asyncio.to_thread(path.is_file):
        raise NotFound("the file is not in this server's data folder")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    return FileResponse(path, headers=headers, media_type=file.media_type)


@router.delete(
    "/{file_id}",
    status_code=204,
    summary="Delete a file",
    responses=responses(*READ),
    openapi_extra=documented(),
)
async def delete_file(request: Request, file_id: str) -> Response:
    """Requests that have it attached and have not run yet will fail."""
    key = await caller(request, "files:write")
    Query(request, ()).check()
    of, found = parts(request), _id_of(file_id)
    async with of.database.engine.begin() as connection:
        await files.remove(connection, key.tenant_id, found)
    await asyncio.to_thread(files.path(of.settings.data_dir, key.tenant_id, found).unlink, missing_ok=True)
    return Response(status_code=204)
