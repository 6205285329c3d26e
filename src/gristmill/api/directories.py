"""Directories: named sets of files, filled one by one or from a zip file."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, incoming, pages
from gristmill.api.archive import Archive, Member, check_kind
from gristmill.api.auth import caller
from gristmill.api.envelope import answer
from gristmill.api.file_options import DirectoryCreate, DirectoryFiles
from gristmill.api.files import id_of as file_id_of
from gristmill.api.files import view as file_view
from gristmill.api.openapi import (
    CHANGE,
    LIST,
    PAGE,
    READ,
    WRITE,
    documented,
    enveloped,
    json_body,
    paged,
    parameter,
    ref,
    responses,
)
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.upload import Upload, discard
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.store import directories, files
from gristmill.store.directories import Directory, Entry
from gristmill.store.files import NewFile

_MAX_BODY_BYTES = 64 * 1024

router = APIRouter(prefix="/api/v1/directories", tags=["Directories"])


def view(directory: Directory) -> dict[str, Any]:
    return {
        "id": directory.id,
        "name": directory.name,
        "files": directory.files,
        "created_at": directory.created_at,
    }


def _entry_view(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "added_at": entry.added_at, "file": file_view(entry.file)}


def _id_of(directory_id: str) -> UUID:
    found = uuid_of(directory_id)
    if found is None:
        raise NotFound("no such directory")
    return found


# --- directories ----------------------------------------------------------------------------------------------


@router.post(
    "",
    status_code=201,
    summary="Create a directory",
    responses=responses(*WRITE),
    openapi_extra=documented(
        body=json_body("DirectoryCreate"), answer=enveloped(ref("DirectoryAnswer")), status=201
    ),
)
async def create_directory(request: Request) -> Response:
    """Empty at first. Names need not differ."""
    key = await caller(request, "files:write")
    Query(request, ()).check()
    given = await body.read_model(request, DirectoryCreate, _MAX_BODY_BYTES)
    async with parts(request).database.engine.begin() as connection:
        made = await directories.create(connection, key.tenant_id, given.name)
    return answer(view(made), 201, headers={"Location": f"/api/v1/directories/{made.id}"})


@router.get(
    "",
    summary="List directories",
    responses=responses(*LIST),
    openapi_extra=documented(
        *PAGE,
        parameter("name", {"type": "string"}, "Only directories of exactly this name"),
        answer=paged(ref("DirectoryAnswer")),
    ),
)
async def list_directories(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "files:read")
    query = Query(request, (*pages.PARAMETERS, "name"))
    name = query.text("name")
    page = pages.asked(request, query, key, "directories")
    async with parts(request).database.engine.connect() as connection:
        found, total = await directories.page(
            connection, key.tenant_id, name, limit=page.fetch, offset=page.skip, before=page.before
        )
    rows = pages.rows(page, found, total, lambda one: one.id)
    return pages.listing(page, rows, [view(one) for one in rows.shown])


@router.get(
    "/{directory_id}",
    summary="Get a directory",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("DirectoryAnswer"))),
)
async def get_directory(request: Request, directory_id: str) -> Response:
    key = await caller(request, "files:read")
    Query(request, ()).check()
    async with parts(request).database.engine.connect() as connection:
        return answer(view(await directories.get(connection, key.tenant_id, _id_of(directory_id))))


@router.delete(
    "/{directory_id}",
    status_code=204,
    summary="Delete a directory",
    responses=responses(*READ),
    openapi_extra=documented(
        parameter(
            "files", {"type": "boolean", "default": False}, "Delete its files, too, out of all directories"
        )
    ),
)
async def delete_directory(request: Request, directory_id: str) -> Response:
    """Its files stay, unless `?files=true`. Batches made from it keep the set of files they were made with."""
    key = await caller(request, "files:write")
    query = Query(request, ("files",))
    with_files = _flag(query, "files")
    of, found = parts(request), _id_of(directory_id)
    gone: list[UUID] = []
    async with of.database.engine.begin() as connection:
        held = await directories.remove(connection, key.tenant_id, found)
        if with_files and held:
            gone = await files.remove(connection, key.tenant_id, held)
    await discard(of, key.tenant_id, gone)
    return Response(status_code=204)


def _flag(query: Query, name: str) -> bool:
    value = query.text(name)
    query.check()
    if value not in {None, "true", "false"}:
        raise Invalid([Problem(name, "unknown_value", "must be one of: true, false")])
    return value == "true"


# --- what is in them ------------------------------------------------------------------------------------------


@router.get(
    "/{directory_id}/files",
    summary="List a directory's files",
    responses=responses(*READ),
    openapi_extra=documented(*PAGE, answer=paged(ref("DirectoryFileAnswer"))),
)
async def list_directory_files(request: Request, directory_id: str) -> Response:
    """Newest files first. `name` is the file's own, or its path in the archive it came in."""
    key = await caller(request, "files:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, f"directory:{directory_id.lower()}")
    async with parts(request).database.engine.connect() as connection:
        found, total = await directories.entries(
            connection,
            key.tenant_id,
            _id_of(directory_id),
            limit=page.fetch,
            offset=page.skip,
            before=page.before,
        )
    rows = pages.rows(page, found, total, lambda entry: entry.file.id)
    shown = [_entry_view(one) for one in rows.shown]
    return pages.listing(page, rows, shown)


@router.post(
    "/{directory_id}/files",
    summary="Add files to a directory",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(body=json_body("DirectoryFiles"), answer=enveloped(ref("DirectoryAnswer"))),
)
async def add_directory_files(request: Request, directory_id: str) -> Response:
    """Files that were uploaded before, up to 1000 at a time; all of them or none. Those in it already stay."""
    key = await caller(request, "files:write")
    Query(request, ()).check()
    given = await body.read_model(request, DirectoryFiles, _MAX_BODY_BYTES)
    found = _id_of(directory_id)
    async with parts(request).database.engine.begin() as connection:
        await directories.get(connection, key.tenant_id, found)
        known = await files.among(connection, key.tenant_id, given.file_ids)
        unknown = [index for index, one in enumerate(given.file_ids) if one not in known]
        if unknown:
            raise Invalid(
                [Problem(f"/file_ids/{index}", "unknown_file", "no such file") for index in unknown]
            )
        names = {one.id: one.filename for one in known.values()}
        directory = await directories.add(connection, key.tenant_id, found, names)
    return answer(view(directory))


@router.delete(
    "/{directory_id}/files/{file_id}",
    status_code=204,
    summary="Take a file out of a directory",
    responses=responses(*READ),
    openapi_extra=documented(),
)
async def remove_directory_file(request: Request, directory_id: str, file_id: str) -> Response:
    """The file itself stays: `DELETE /api/v1/files/{file_id}` deletes it."""
    key = await caller(request, "files:write")
    Query(request, ()).check()
    directory, file = _id_of(directory_id), file_id_of(file_id)
    async with parts(request).database.engine.begin() as connection:
        if not await directories.take_out(connection, key.tenant_id, directory, [file]):
            raise NotFound("no such file")
    return Response(status_code=204)


@router.post(
    "/{directory_id}/upload",
    status_code=201,
    summary="Upload a file into a directory",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(
        *incoming.DOCUMENTED, body=incoming.BODY, answer=enveloped(ref("FileAnswer")), status=201
    ),
)
async def upload_into_directory(request: Request, directory_id: str) -> Response:
    """Like `POST /api/v1/files`; the file is in the directory at once, or there is none."""
    key = await caller(request, "files:write")
    query = Query(request, incoming.PARAMETERS)
    of, found = parts(request), _id_of(directory_id)
    async with of.database.engine.connect() as connection:
        await directories.get(connection, key.tenant_id, found)
    async with Upload(of, key.tenant_id) as upload:
        new = await incoming.receive(request, query, upload)
        async with of.database.engine.begin() as connection:
            [file] = await upload.add(connection, [new])
            await directories.add(connection, key.tenant_id, found, {file.id: file.filename})
        upload.kept()
    return answer(file_view(file), 201, headers={"Location": f"/api/v1/files/{file.id}"})


# --- out of an archive ----------------------------------------------------------------------------------------


@router.post(
    "/{directory_id}/zip",
    status_code=201,
    summary="Fill a directory from a zip file",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(
        body={"required": True, "content": incoming.FORM},
        answer=enveloped(ref("DirectoryAnswer")),
        status=201,
    ),
)
async def unpack_into_directory(request: Request, directory_id: str) -> Response:
    """Each of its members becomes a file, all of them or none. The archive's own directory is checked first: at most
    10,000 members, plain files, relative paths, no two alike, no archives within, not too large and not packed too
    well. A problem's pointer is the member's place in it."""
    key = await caller(request, "files:write")
    Query(request, ()).check()
    of, found = parts(request), _id_of(directory_id)
    async with of.database.engine.connect() as connection:
        await directories.get(connection, key.tenant_id, found)
    with tempfile.TemporaryFile(prefix="gristmill-") as file:
        async for piece in incoming.whole(request):
            await asyncio.to_thread(file.write, piece)
        directory = await _unpack(of, key.tenant_id, found, file)
    return answer(view(directory), 201)


async def _unpack(of: Parts, tenant_id: UUID, directory_id: UUID, file: IO[bytes]) -> Directory:
    archive = await asyncio.to_thread(Archive, file, of.settings.upload_max_bytes)
    async with Upload(of, tenant_id) as upload:
        ids = await upload.expect(len(archive.members))
        news = [
            await _member(upload, file_id, archive, member)
            for file_id, member in zip(ids, archive.members, strict=True)
        ]
        names = {new.id: member.path for new, member in zip(news, archive.members, strict=True)}
        async with of.database.engine.begin() as connection:
            await upload.add(connection, news)
            directory = await directories.add(connection, tenant_id, directory_id, names)
        upload.kept()
    return directory


async def _member(upload: Upload, file_id: UUID, archive: Archive, member: Member) -> NewFile:
    pieces = _off_loop(archive.pieces(member))
    inspection = await upload.bring(file_id, pieces, allow_empty=True)
    new = incoming.new_file(file_id, member.filename, inspection)
    check_kind(member, new.media_type)
    return new


async def _off_loop(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece
