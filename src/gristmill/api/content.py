"""A file's bytes as an answer, whole or a part."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from gristmill.api.parts import Parts, parts
from gristmill.domain.errors import NotFound
from gristmill.storage.base import Missing
from gristmill.store.files import File

_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")


async def content(request: Request, key: str, file: File) -> Response:
    """Always as a download: nothing of a caller's is shown under this origin. Raises NotFound.

    One range is understood, every other wish gets the whole (RFC 9110 allows it)."""
    of = parts(request)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    path = of.storage.path(key)
    if path is None:
        return await _streamed(request, of, key, file, headers)
    if not await asyncio.to_thread(path.is_file):
        raise _gone()
    if _range(request.headers.get("range", ""), file.size) is None:
        _forget_range(request)
    return FileResponse(path, headers=headers, media_type=file.media_type)


async def _streamed(
    request: Request, of: Parts, key: str, file: File, headers: dict[str, str]
) -> StreamingResponse:
    """Out of a store."""
    wanted = _range(request.headers.get("range", ""), file.size)
    start, end = wanted or (0, file.size)
    pieces = of.storage.read(key, start, end if wanted else None)
    try:
        first = await anext(pieces, b"")
    except Missing:
        raise _gone() from None
    headers |= {"Content-Length": str(end - start), "Accept-Ranges": "bytes"}
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    status = 206 if wanted else 200
    return StreamingResponse(_rest(first, pieces), status, headers=headers, media_type=file.media_type)


async def _rest(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(pieces):  # type: ignore[type-var]  # it is a generator
        yield first
        async for piece in pieces:
            yield piece


def _range(header: str, size: int) -> tuple[int, int] | None:
    """(first, one behind the last) of a header like `bytes=0-99` or `bytes=100-`; None: no range we can serve."""
    found = _RANGE.fullmatch(header.strip())
    if found is None:
        return None
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    return (start, end) if start < end else None


def _forget_range(request: Request) -> None:
    """Else Starlette would refuse what it does not understand, in words of its own."""
    request.scope["headers"] = [one for one in request.scope["headers"] if one[0] != b"range"]


def _gone() -> NotFound:
    return NotFound("the bytes of this file are not in the storage")
