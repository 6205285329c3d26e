"""Files below a folder of this host. A worker elsewhere sees them only through a shared mount."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar
from uuid import uuid4

from gristmill.storage.base import PIECE_BYTES, Missing, Storage, StorageFailed, checked

T = TypeVar("T")


class LocalStorage(Storage):
    """`root` is the data folder. Bytes are on the disk for good when `put` returns."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        path = self.path(key)
        part = _part(path)
        file = await _in_thread(lambda: _create(part))
        try:
            await _write(file, pieces)
            await _to_the_end(lambda: _keep(file, part, path), undo=path)
        finally:
            file.close()
            with suppress(OSError):
                part.unlink(missing_ok=True)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        path, at = self.path(key), start
        descriptor = await _in_thread(lambda: os.open(path, os.O_RDONLY))
        try:
            while piece := await _in_thread(lambda: os.pread(descriptor, _most(at, end), at)):  # noqa: B023
                at += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    async def delete(self, key: str) -> None:
        path = self.path(key)
        await _in_thread(lambda: _unlink(path, _part(path)))

    def path(self, key: str) -> Path:
        return self._root / checked(key)

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """Under a second name, so that a delete meanwhile takes nothing away."""
        link = self._root / "tmp" / str(uuid4())
        await _in_thread(lambda: _link(self.path(key), link))
        try:
            yield link
        finally:
            with suppress(OSError):
                link.unlink()


async def _in_thread(work: Callable[[], T]) -> T:
    def guarded() -> T:
        with _own_errors():
            return work()

    return await asyncio.to_thread(guarded)


async def _to_the_end(work: Callable[[], None], undo: Path) -> None:
    """A thread cannot be cancelled: who is, waits for it, and then takes back what it did."""
    working = asyncio.ensure_future(_in_thread(work))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait((working,))
        await _in_thread(lambda: _unlink(undo))
        raise


@contextmanager
def _own_errors() -> Iterator[None]:
    """What the system says holds paths: it goes no further than here."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Missing from None
    except OSError as error:
        raise StorageFailed(f"the data folder: {os.strerror(error.errno or 0)}") from None


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        link.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:  # not every file system has links
        shutil.copyfile(path, link)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _create(part: Path) -> IO[bytes]:
    part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


async def _write(file: IO[bytes], pieces: AsyncIterator[bytes]) -> None:
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            data, waiting, size = b"".join(waiting), [], 0
            await _in_thread(lambda: file.write(data))  # noqa: B023  # awaited at once
    await _in_thread(lambda: file.write(b"".join(waiting)))


def _keep(file: IO[bytes], part: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _most(at: int, end: int | None) -> int:
    return PIECE_BYTES if end is None else max(0, min(PIECE_BYTES, end - at))
