"""Files below a folder that the operator has opened to callers. Whoever may write there may try to lead us out of it."""

import os
import shutil
import stat
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO


class OutsideRoot(Exception):
    """Leads out of the root, through a symbolic link, or to something that is no plain file."""


class TooLarge(Exception):
    """More bytes than allowed."""


def copy(root: Path, path: str, target: IO[bytes], max_bytes: int) -> None:
    """The file's bytes into `target`.

    Each part of the path is opened below the one before without following links, and what was opened is what is
    read: nothing that is moved meanwhile changes where we are. Raises FileNotFoundError, OutsideRoot, TooLarge.
    """
    with ExitStack() as stack:
        file = _opened(root, _parts(root, path), stack)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OutsideRoot
        if status.st_size > max_bytes:
            raise TooLarge
        with os.fdopen(os.dup(file), "rb") as source:
            shutil.copyfileobj(_Bounded(source, max_bytes), target, 1024 * 1024)


def look(root: Path, path: str) -> int:
    """The size of the file, which `copy` would find. Raises as that does."""
    with ExitStack() as stack:
        status = os.fstat(_opened(root, _parts(root, path), stack))
        if not stat.S_ISREG(status.st_mode):
            raise OutsideRoot
        return status.st_size


def _parts(root: Path, path: str) -> list[str]:
    """The names on the way down from the root. Raises OutsideRoot."""
    given = PurePosixPath(path)
    if given.is_absolute():
        try:
            given = given.relative_to(PurePosixPath(root))
        except ValueError:
            raise OutsideRoot from None
    if not given.parts or ".." in given.parts or "\0" in path:
        raise OutsideRoot
    return list(given.parts)


def _opened(root: Path, parts: list[str], stack: ExitStack) -> int:
    below = _close_later(stack, os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not make us wait
    for index, name in enumerate(parts):
        directory = os.O_DIRECTORY if index < len(parts) - 1 else 0
        try:
            below = _close_later(stack, os.open(name, flags | directory, dir_fd=below))
        except (FileNotFoundError, PermissionError):
            raise FileNotFoundError from None
        except OSError:  # a link, a socket, a file where a folder should be, a name too long
            raise OutsideRoot from None
    return below


def _close_later(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


class _Bounded:
    """A file that grows while it is read is not read for ever."""

    def __init__(self, source: IO[bytes], max_bytes: int) -> None:
        self._source = source
        self._left = max_bytes

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise TooLarge
        return piece
