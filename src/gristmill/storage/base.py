"""What a storage can do. Keys are made here, of ids only: nothing a caller writes becomes part of one."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

PIECE_BYTES = 1024 * 1024  # of a file that is read; what is written may come in pieces of any size
_KEY = re.compile(r"(?:[A-Za-z0-9-]+/)*[A-Za-z0-9-]+")


class Missing(Exception):
    """There is nothing under this key (any more)."""


class StorageFailed(Exception):
    """The storage cannot be reached, is full, or refuses us; later it may work. Names no key and no credential."""


class Storage(ABC):
    """Bytes under keys. What fails for reasons of the storage raises StorageFailed, everywhere."""

    @abstractmethod
    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Whole or not at all: what `pieces` raises comes out again, and then nothing is left under the key.

        Holds a few MiB of it at a time. A key that is taken is overwritten.
        """

    @abstractmethod
    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, without, `end`; None: to the last. Raises Missing at the first piece."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """The bytes, and what a broken-off `put` left of them. Nothing there is no error."""

    @abstractmethod
    def path(self, key: str) -> Path | None:
        """Where the bytes lie, if they lie on a disk of this host; whether they do is not looked up."""

    @abstractmethod
    def local(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The bytes as a file of this host for the time of the block, not to be changed. Raises Missing."""


def file_key(tenant_id: UUID, file_id: UUID) -> str:
    """Where an uploaded file is."""
    return f"files/{UUID(str(tenant_id))}/{UUID(str(file_id))}"


def checked(key: str) -> str:
    """A last look at a key before it becomes a path. Raises ValueError."""
    if not _KEY.fullmatch(key):
        raise ValueError("not a key of this storage")
    return key
