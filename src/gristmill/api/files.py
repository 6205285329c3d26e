"""Files: uploaded here or fetched from a URL, attached to requests by their id, gathered in directories."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import content, incoming, pages
from gristmill.api.auth import caller
from gristmill.api.envelope import answer
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
from gristmill.api.parts import parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.upload import Upload, discard
from gristmill.domain.errors import NotFound
from gristmill.storage.base import file_key
from gristmill.store import files
from gristmill.store.files import File, Filter

_FILTERS = ("filename", "media_type", "purpose", "created_after", "created_before")
_INSTANT = {"type": "string", "format": "date-time"}
_FILTERS_DOCUMENTED = (
    parameter("filename", {"type": "string"}, "Only names that contain this, in either case"),
    parameter("media_type", {"type": "string"}, "Only files of this type"),
    parameter("purpose", {"type": "string"}, "Only files with exactly this purpose"),
    parameter("created_after", _INSTANT, "Only files made at this instant or later"),
    parameter("created_before", _INSTANT, "Only files made before this instant"),
)

_ANY_CONTENT = {"*/*": {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(prefix="/api/v1/files", tags=["Files"])


def view(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "filename": file.filename,
        "media_type": file.media_type,
        "bytes": file.size,
        "sha256": file.sha256.hex(),
        "lines": file.lines,
        "records": file.records,
        "purpose": file.purpose,
        "source_url": file.source_url,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
    }


def id_of(file_id: str) -> UUID:
    found = uuid_of(file_id)
    if found is None:
        raise NotFound("no such file")
    return found


@router.post(
    "",
    status_code=201,
    summary="Upload a file",
    responses=responses(*WRITE),
    openapi_extra=documented(
        *incoming.DOCUMENTED, body=incoming.BODY, answer=enveloped(ref("FileAnswer")), status=201
    ),
)
async def upload_file(request: Request) -> Response:
    """As a form with one part called `file`, as the body itself with `?filename=`, or as JSON with the URL where it is.

    Streamed, whole or not at all. The media type is told by the bytes. A URL that is not allowed, not reached or too
    slow is refused in the same words.
    """
    key = await caller(request, "files:write")
    query = Query(request, incoming.PARAMETERS)
    of = parts(request)
    async with Upload(of, key.tenant_id) as upload:
        new = await incoming.receive(request, query, upload)
        async with of.database.engine.begin() as connection:
            [file] = await upload.add(connection, [new])
        upload.kept()
    return answer(view(file), 201, headers={"Location": f"/api/v1/files/{file.id}"})


@router.get(
    "",
    summary="List files",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, *_FILTERS_DOCUMENTED, answer=paged(ref("FileAnswer"))),
)
async def list_files(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "files:read")
    query = Query(request, (*pages.PARAMETERS, *_FILTERS))
    wanted = _filter(query)
    page = pages.asked(request, query, key, "files")
    async with parts(request).database.engine.connect() as connection:
        found, total = await files.page(
            connection, key.tenant_id, wanted, limit=page.fetch, offset=page.skip, before=page.before
        )
    rows = pages.rows(page, found, total, lambda file: file.id)
    return pages.listing(page, rows, [view(one) for one in rows.shown])


def _filter(query: Query) -> Filter:
    return Filter(
        filename=query.text("filename"),
        media_type=query.text("media_type"),
        purpose=query.text("purpose"),
        created_after=query.instant("created_after"),
        created_before=query.instant("created_before"),
    )


@router.get(
    "/{file_id}",
    summary="Get a file's description",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("FileAnswer"))),
)
async def get_file(request: Request, file_id: str) -> Response:
    """`lines` counts those that are not blank; null: no text. `records` counts those that a CSV file would have, its
    header among them; null: no text, or JSON."""
    key = await caller(request, "files:read")
    Query(request, ()).check()
    async with parts(request).database.engine.connect() as connection:
        return answer(view(await files.get(connection, key.tenant_id, id_of(file_id))))


@router.get(
    "/{file_id}/content",
    summary="Download a file",
    responses={
        **responses(*READ),
        200: {"content": _ANY_CONTENT},
        206: {"description": "The one range that was asked for", "content": _ANY_CONTENT},
    },
    openapi_extra=documented(),
)
async def get_content(request: Request, file_id: str) -> Response:
    """The bytes as they came. Always as a download: nothing of a caller's is shown under this origin."""
    key = await caller(request, "files:read")
    Query(request, ()).check()
    async with parts(request).database.engine.connect() as connection:
        file = await files.get(connection, key.tenant_id, id_of(file_id))
    return await content.content(request, file_key(key.tenant_id, file.id), file)


@router.delete(
    "/{file_id}",
    status_code=204,
    summary="Delete a file",
    responses=responses(*READ),
    openapi_extra=documented(),
)
async def delete_file(request: Request, file_id: str) -> Response:
    """At once, out of every directory, also while a batch uses it: requests that need it and have not run yet fail."""
    key = await caller(request, "files:write")
    Query(request, ()).check()
    of, found = parts(request), id_of(file_id)
    async with of.database.engine.begin() as connection:
        if not await files.remove(connection, key.tenant_id, [found]):
            raise NotFound("no such file")
    await discard(of, key.tenant_id, [found])
    return Response(status_code=204)
