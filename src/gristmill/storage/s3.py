"""Files in an S3-compatible store. Needs the extra `s3`; imported only where a setting asks for it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from gristmill.storage.base import PIECE_BYTES, Missing, Storage, StorageFailed, checked
from gristmill.storage.location import Location, Options

if TYPE_CHECKING:
    from obstore import GetOptions

PART_BYTES = 8 * 1024 * 1024  # S3 takes 10,000 parts of at least 5 MiB: files of up to 78 GiB
_PARTS_AT_ONCE = 2
_ABORT_SECONDS = 30.0


class S3Storage(Storage):
    """Objects below one bucket and prefix. One instance per process; it holds its own connections."""

    def __init__(self, location: Location, options: Options) -> None:
        self._store = S3Store(location.bucket, prefix=location.prefix or None, **_options(options))

    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        checked(key)
        first = bytearray()
        async for piece in pieces:
            first += piece
            if len(first) > PART_BYTES:
                await self._put_large(key, bytes(first), pieces)
                return
        with _own_errors():
            await obstore.put_async(self._store, key, bytes(first), use_multipart=False)

    async def _put_large(self, key: str, first: bytes, rest: AsyncIterator[bytes]) -> None:
        """In parts. The library gives a broken-off upload up when its source raises, not when it is cancelled:
        so it runs as a task of its own, and is told of whatever happens here."""
        handover = _Handover()
        sending = asyncio.ensure_future(
            obstore.put_async(
                self._store, key, handover.pieces(), chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        )
        try:
            await handover.give(first, sending)
            async for piece in rest:
                await handover.give(piece, sending)
            await handover.give(None, sending)
            with _own_errors():
                await asyncio.shield(sending)
        except BaseException:
            handover.abort()
            await asyncio.wait((sending,), timeout=_ABORT_SECONDS)
            if not sending.done() or sending.exception() is None:  # it was too late to give it up
                with suppress(StorageFailed):
                    await self.delete(key)
            raise

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        options: GetOptions = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        with _own_errors():
            answer = await obstore.get_async(self._store, key, options=options)
            async for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    async def delete(self, key: str) -> None:
        checked(key)
        with _own_errors(), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)

    def path(self, key: str) -> None:
        return None

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
            async for piece in self.read(key):
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.flush)
            yield Path(file.name)


class _Aborted(Exception):
    """Makes the library give an upload up."""


class _Handover:
    """One piece at a time from the task that has them to the library's own."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._aborted = asyncio.Event()

    async def give(self, piece: bytes | None, to: "asyncio.Future[Any]") -> None:
        """None: that was all. Raises what the receiver has failed with."""
        giving = asyncio.ensure_future(self._waiting.put(piece))
        try:
            await asyncio.wait((giving, to), return_when=asyncio.FIRST_COMPLETED)
        finally:
            giving.cancel()
        if to.done():
            with _own_errors():
                to.result()

    async def pieces(self) -> AsyncIterator[bytes]:
        aborted = asyncio.ensure_future(self._aborted.wait())
        try:
            while True:
                taking = asyncio.ensure_future(self._waiting.get())
                await asyncio.wait((taking, aborted), return_when=asyncio.FIRST_COMPLETED)
                if aborted.done():
                    taking.cancel()
                    raise _Aborted
                piece = taking.result()
                if piece is None:
                    return
                yield piece
        finally:
            aborted.cancel()

    def abort(self) -> None:
        self._aborted.set()


@contextmanager
def _own_errors() -> Iterator[None]:
    """The library's messages quote URLs and the store's answers: they go no further than here."""
    try:
        yield
    except FileNotFoundError:
        raise Missing from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageFailed(f"the store: {type(error).__name__}") from None


def _options(options: Options) -> dict[str, Any]:
    given: dict[str, Any] = {
        "region": options.region,
        "client_options": {
            "allow_http": bool(options.endpoint and options.endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=60),
            "timeout": timedelta(hours=1),  # of a whole exchange: a large file may be read slowly
        },
        "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
    }
    if options.endpoint:
        given["endpoint"] = options.endpoint
    if options.access_key_id is not None:  # without: as the AWS tools find theirs
        given["access_key_id"] = options.access_key_id
    if options.secret_access_key is not None:
        given["secret_access_key"] = options.secret_access_key
    return given
