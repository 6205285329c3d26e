"""Opening documents for processors: whatever the source, a file on this host's disk for the time of a block."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID

from gristmill.domain.sources import (
    BatchSource,
    FileSource,
    LocalSource,
    ObjectSource,
    OpenSource,
    Source,
    SourceRefused,
    UrlSource,
)
from gristmill.net.download import UnexpectedStatus, download
from gristmill.net.session import CallFailed, HttpSession
from gristmill.storage import below
from gristmill.storage.base import Missing, Storage, StorageFailed, file_key
from gristmill.storage.location import Location

URL_SECONDS = 60.0  # from the first connect to the last byte, redirects included
LOOK_SECONDS = 10.0  # for no more than a look


@dataclass(frozen=True, slots=True)
class Objects:
    """What may be named by key: everything at `root`, save what lies below `hidden` (uploads of all tenants)."""

    root: Location
    storage: Storage
    hidden: Location | None


@dataclass(frozen=True, slots=True)
class Sources:
    """`filename` is the one look into the database: what the tenant calls its file, None if it has none such."""

    storage: Storage
    http: HttpSession
    filename: Callable[[UUID, UUID], Awaitable[str | None]]
    max_bytes: int
    local_root: Path | None = None
    objects: Objects | None = None

    @asynccontextmanager
    async def open(self, tenant_id: UUID, source: Source) -> AsyncIterator[OpenSource]:
        """Temporary copies are gone after the block. Raises SourceRefused, at the beginning only."""
        match source:
            case FileSource(file_id):
                opening = self._file(tenant_id, file_id)
            case UrlSource(url):
                opening = self._url(url)
            case LocalSource(path):
                opening = self._local(path)
            case ObjectSource(key):
                opening = self._object(key)
            case BatchSource(file_id):
                opening = self._stored(tenant_id, file_id, "requests.jsonl")
        async with opening as opened:
            yield opened

    async def look(self, source: Source) -> None:
        """Whether it can be opened, without reading it: a URL is asked, and left before its body. Raises SourceRefused."""
        match source:
            case UrlSource(url):
                await self._look_at_url(url)
            case LocalSource(path):
                await self._look_at_local(path)
            case ObjectSource(key):
                await self._look_at_object(key)
            case _:
                raise _no_file()

    async def _look_at_url(self, url: str) -> None:
        try:
            async with download(self.http, url, timeout_seconds=LOOK_SECONDS, max_bytes=self.max_bytes):
                return
        except (CallFailed, UnexpectedStatus) as error:
            raise url_refused(error, self.max_bytes) from None

    async def _look_at_local(self, path: str) -> None:
        if self.local_root is None:
            raise _not_opened("GRISTMILL_LOCAL_ROOT")
        try:
            size = await asyncio.to_thread(below.look, self.local_root, path)
        except below.OutsideRoot:
            raise SourceRefused("source_refused", "The path may not be read.") from None
        except (OSError, ValueError):
            raise SourceRefused("source_not_found", "There is no such file.") from None
        if size > self.max_bytes:
            raise too_large(self.max_bytes)

    async def _look_at_object(self, key: str) -> None:
        if self.objects is None:
            raise _not_opened("GRISTMILL_S3_ROOT")
        inside = _key_below(self.objects, key)
        try:
            async for _ in self.objects.storage.read(inside, 0, 1):
                return
        except Missing:
            raise SourceRefused("source_not_found", "There is no such object.") from None
        except StorageFailed:
            raise _storage_failed() from None

    @asynccontextmanager
    async def _file(self, tenant_id: UUID, file_id: UUID) -> AsyncIterator[OpenSource]:
        filename = await self.filename(tenant_id, file_id)
        if filename is None:
            raise _no_file()
        async with self._stored(tenant_id, file_id, filename) as opened:
            yield opened

    @asynccontextmanager
    async def _stored(self, tenant_id: UUID, file_id: UUID, filename: str) -> AsyncIterator[OpenSource]:
        async with AsyncExitStack() as stack:
            try:
                path = await stack.enter_async_context(self.storage.local(file_key(tenant_id, file_id)))
            except Missing:
                raise _no_file() from None
            except StorageFailed:
                raise _storage_failed() from None
            yield OpenSource(path, filename)

    @asynccontextmanager
    async def _url(self, url: str) -> AsyncIterator[OpenSource]:
        with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
            try:
                async with download(
                    self.http, url, timeout_seconds=URL_SECONDS, max_bytes=self.max_bytes
                ) as found:
                    filename = found.filename
                    await _fill(file, found.pieces())
            except (CallFailed, UnexpectedStatus) as error:
                raise url_refused(error, self.max_bytes) from None
            yield OpenSource(Path(file.name), filename)

    @asynccontextmanager
    async def _local(self, path: str) -> AsyncIterator[OpenSource]:
        if self.local_root is None:
            raise _not_opened("GRISTMILL_LOCAL_ROOT")
        with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
            try:
                await asyncio.to_thread(below.copy, self.local_root, path, file, self.max_bytes)
            except below.OutsideRoot:
                raise SourceRefused("source_refused", "The path may not be read.") from None
            except below.TooLarge:
                raise too_large(self.max_bytes) from None
            except (OSError, ValueError):
                raise SourceRefused("source_not_found", "There is no such file.") from None
            await asyncio.to_thread(file.flush)
            yield OpenSource(Path(file.name), path.rpartition("/")[2])

    @asynccontextmanager
    async def _object(self, key: str) -> AsyncIterator[OpenSource]:
        if self.objects is None:
            raise _not_opened("GRISTMILL_S3_ROOT")
        inside = _key_below(self.objects, key)
        with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
            try:
                await _fill(file, self.objects.storage.read(inside), self.max_bytes)
            except Missing:
                raise SourceRefused("source_not_found", "There is no such object.") from None
            except StorageFailed:
                raise _storage_failed() from None
            yield OpenSource(Path(file.name), inside.rpartition("/")[2])


async def read_whole(storage: Storage, key: str) -> bytes | None:
    """For small files; None: there is none. Raises SourceRefused."""
    try:
        return b"".join([piece async for piece in storage.read(key)])
    except Missing:
        return None
    except StorageFailed:
        raise _storage_failed() from None


async def _fill(file: IO[bytes], pieces: AsyncIterator[bytes], max_bytes: int | None = None) -> None:
    size = 0
    async for piece in pieces:
        size += len(piece)
        if max_bytes is not None and size > max_bytes:
            raise too_large(max_bytes)
        await asyncio.to_thread(file.write, piece)
    await asyncio.to_thread(file.flush)


def _key_below(objects: Objects, given: str) -> str:
    """The key below the root, from either form. Raises SourceRefused."""
    key = given.removeprefix("/")
    if given.startswith("s3://"):
        bucket, _, rest = given.removeprefix("s3://").partition("/")
        start = objects.root.inside("")
        if bucket != objects.root.bucket or not rest.startswith(start):
            raise SourceRefused("source_refused", "The object may not be read.")
        key = rest.removeprefix(start)
    segments = key.split("/")
    if not all(segments) or {".", ".."} & set(segments) or any(ord(one) < 32 for one in key):
        raise SourceRefused("source_refused", "The object may not be read.")
    if _is_hidden(objects, key):
        raise SourceRefused("source_refused", "The object may not be read.")
    return key


def _is_hidden(objects: Objects, key: str) -> bool:
    hidden = objects.hidden
    if hidden is None or hidden.bucket != objects.root.bucket:
        return False
    return f"{objects.root.inside(key)}/".startswith(hidden.inside("files/"))


def url_refused(error: CallFailed | UnexpectedStatus, max_bytes: int) -> SourceRefused:
    """Nothing reached, nothing allowed, nothing in time: all in the same words."""
    if isinstance(error, UnexpectedStatus):
        return SourceRefused(
            "url_status",
            f"The URL answered with status {error.status}.",
            suggestion="It must answer 200 with the document, after at most 3 redirects.",
            retryable=error.status in {408, 429} or error.status >= 500,
            status=error.status,
        )
    if error.kind == "too_large":
        return too_large(max_bytes)
    return SourceRefused(
        "url_unreachable",
        "The URL could not be fetched.",
        suggestion=f"It must be https, at a public address, on port 443, and answer within {URL_SECONDS:g} seconds.",
        retryable=True,
    )


def too_large(max_bytes: int) -> SourceRefused:
    return SourceRefused("source_too_large", f"The document is larger than {max_bytes} bytes.")


def _no_file() -> SourceRefused:
    return SourceRefused("file_not_found", "There is no such file, or no longer.")


def _not_opened(setting: str) -> SourceRefused:
    return SourceRefused(
        "source_refused",
        "Sources of this kind are not open here.",
        suggestion=f"The operator may set {setting}.",
    )


def _storage_failed() -> SourceRefused:
    return SourceRefused("storage_unavailable", "The file storage cannot be reached.", retryable=True)
