"""A document from a URL that a caller named: redirects followed one by one, each checked like the first."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from email.message import Message
from urllib.parse import unquote, urljoin, urlsplit

from gristmill.net.session import CallFailed, HttpSession, Stream

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_NAME = 256
_UNFIT = re.compile(r"[\x00-\x1f\x7f/\\]")


class UnexpectedStatus(Exception):
    """Reached, but the answer is not the document: anything but 200, or one redirect too many."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Download:
    """An answer whose body is still to come."""

    def __init__(self, url: str, stream: Stream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self.filename = _filename(url, stream.headers.get("Content-Disposition", ""))

    async def pieces(self) -> AsyncIterator[bytes]:
        """After decompression. Raises CallFailed: `too_large` as soon as there is one byte too many."""
        size = 0
        async for piece in self._stream.pieces():
            size += len(piece)
            if size > self._max_bytes:
                raise CallFailed("too_large")
            yield piece


@asynccontextmanager
async def download(
    http: HttpSession, url: str, *, timeout_seconds: float, max_bytes: int
) -> AsyncIterator[Download]:
    """GET, at most 3 redirects, one deadline over all of it. Raises CallFailed, UnexpectedStatus."""
    deadline = http.deadline(timeout_seconds)
    async with AsyncExitStack() as stack:
        for _ in range(MAX_REDIRECTS + 1):
            stream = await stack.enter_async_context(http.streamed(url, deadline=deadline))
            following = stream.headers.get("Location") if stream.status in _REDIRECTS else None
            if following is None:
                break
            url = _joined(url, following)
        if stream.status != 200:
            raise UnexpectedStatus(stream.status)
        declared = stream.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise CallFailed("too_large")
        yield Download(url, stream, max_bytes)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise CallFailed("address_refused") from None


def _filename(url: str, disposition: str) -> str:
    """What the server calls it, else the last part of the URL's path, else `document`."""
    message = Message()
    message["Content-Disposition"] = disposition.replace("\r", " ").replace("\n", " ")
    named = message.get_filename() if disposition else None
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    for name in (named, last):
        cleaned = _UNFIT.sub("_", (name or "").replace("\\", "/").rpartition("/")[2]).strip()
        if cleaned and cleaned not in {".", ".."}:
            return cleaned[-_MAX_NAME:].encode("utf-8", "replace").decode()
    return "document"
