"""The file in a request: as a form, as the body itself, or behind a URL."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request

from gristmill.api import body
from gristmill.api.file_options import FileFromUrl
from gristmill.api.multipart import FIELD, FilePart
from gristmill.api.openapi import parameter, ref
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.upload import Upload
from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.inspection import Inspection
from gristmill.net.download import UnexpectedStatus, download
from gristmill.net.session import CallFailed
from gristmill.storage.sources import URL_SECONDS, url_refused
from gristmill.store.files import NewFile

PARAMETERS = ("filename", "purpose")
DOCUMENTED = (
    parameter("filename", {"type": "string"}, "The name, when the body is the file itself and not a form"),
    parameter("purpose", {"type": "string", "maxLength": 256}, "What it is for, in words of your own"),
)
MULTIPART = "multipart/form-data"
_OVERHEAD_BYTES = 64 * 1024  # boundaries and headers around the file itself
_MAX_URL_BODY_BYTES = 16 * 1024
_MAX_NAME = 256

FORM: dict[str, Any] = {
    MULTIPART: {
        "schema": {
            "type": "object",
            "required": [FIELD],
            "additionalProperties": False,
            "properties": {FIELD: {"type": "string", "format": "binary"}},
        }
    },
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {**FORM, "application/json": {"schema": ref("FileFromUrl")}},
}


async def receive(request: Request, query: Query, upload: Upload) -> NewFile:
    """The bytes are in the storage when this answers. Raises Invalid, TooLarge and what reading a body raises."""
    purpose = query.text("purpose")
    query.check()
    body.check_not_encoded(request)
    kind = _kind(request)
    if kind == "application/json" and "filename" not in query.values:
        return await _from_url(request, upload, purpose)
    if kind == MULTIPART:
        form = FilePart()
        [file_id] = await upload.expect()
        inspection = await upload.bring(file_id, form_pieces(request, form))
        return new_file(file_id, name_of(form.filename or ""), inspection, purpose=purpose)
    name = name_of(query.text("filename") or "")
    [file_id] = await upload.expect()
    incoming = body.stream(request, parts(request).settings.upload_max_bytes)
    return new_file(file_id, name, await upload.bring(file_id, incoming), purpose=purpose)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def form_pieces(request: Request, form: FilePart) -> AsyncIterator[bytes]:
    """Refuses a bad name before anything is written."""
    incoming = body.stream(request, parts(request).settings.upload_max_bytes + _OVERHEAD_BYTES)
    async for piece in form.pieces(request.headers.get("content-type", ""), incoming):
        name_of(form.filename or "")
        yield piece


async def whole(request: Request) -> AsyncIterator[bytes]:
    """The pieces of a file that comes without a name of its own: as a form or as the body itself."""
    body.check_not_encoded(request)
    if _kind(request) == MULTIPART:
        async for piece in form_pieces(request, FilePart()):
            yield piece
    else:
        async for piece in body.stream(request, parts(request).settings.upload_max_bytes):
            yield piece


async def _from_url(request: Request, upload: Upload, purpose: str | None) -> NewFile:
    given = await body.read_model(request, FileFromUrl, _MAX_URL_BODY_BYTES)
    name = None if given.filename is None else name_of(given.filename)
    [file_id] = await upload.expect()
    of = parts(request)
    max_bytes = of.settings.upload_max_bytes
    try:
        async with download(of.http, given.url, timeout_seconds=URL_SECONDS, max_bytes=max_bytes) as document:
            inspection = await upload.bring(file_id, document.pieces())
    except (CallFailed, UnexpectedStatus) as error:
        refused = url_refused(error, max_bytes)
        detail = " ".join(filter(None, (refused.message, refused.suggestion)))
        raise Invalid([Problem("/url", refused.code, detail)]) from None
    return new_file(
        file_id,
        name or name_of(document.filename),
        inspection,
        purpose=given.purpose or purpose,
        source_url=_without_query(given.url),
    )


def _without_query(url: str) -> str:
    """What may be kept and shown: the query of a signed URL opens the document to whoever reads it."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def new_file(file_id: UUID, name: str, inspection: Inspection, **more: str | None) -> NewFile:
    return NewFile(
        id=file_id,
        filename=name,
        media_type=inspection.media_type(name),
        size=inspection.size,
        sha256=inspection.sha256,
        lines=inspection.lines,
        records=inspection.records,
        **more,
    )


def name_of(given: str) -> str:
    """What browsers and others send as a path becomes its last part. Raises Invalid."""
    name = given.replace("\\", "/").rpartition("/")[2]
    if not name:
        raise Invalid([Problem("filename", "missing", "the file needs a name")])
    if len(name) > _MAX_NAME:
        raise Invalid([Problem("filename", "string_too_long", f"at most {_MAX_NAME} characters")])
    if "\0" in name:
        raise Invalid([Problem("filename", "nul_character", "the character NUL cannot be stored")])
    return name
