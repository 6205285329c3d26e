"""Bringing an upload to disk: below a folder of the tenant's, under an id of ours, whole or not at all."""

import asyncio
import codecs
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import IO

_FLUSH_BYTES = 1024 * 1024
_TEXT_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".csv": "text/csv",
    ".html": "text/html",
    ".htm": "text/html",
    ".xml": "text/xml",
    ".json": "application/json",
    ".jsonl": "text/plain",
}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
)


class Upload:
    """A file on its way. `keep` makes it visible; leaving the block without it removes every trace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._part = path.with_name(f"{path.name}.part")
        self._hash = hashlib.sha256()
        self._head = b""
        self._text: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
        self._waiting: list[bytes] = []
        self._file: IO[bytes]

    async def __aenter__(self) -> "Upload":
        self._file = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()

    def _open(self) -> IO[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return open(self._part, "xb", opener=_private)

    async def write(self, pieces: AsyncIterator[bytes]) -> None:
        waiting = 0
        async for piece in pieces:
            self.size += len(piece)
            waiting += len(piece)
            self._waiting.append(piece)
            if waiting >= _FLUSH_BYTES:
                await asyncio.to_thread(self._flush)
                waiting = 0
        await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._head = self._head or data[:16]
        self._hash.update(data)
        self._look(data)
        self._file.write(data)

    def _look(self, data: bytes, final: bool = False) -> None:
        """Text is what decodes as UTF-8 and holds no NUL."""
        if self._text is None:
            return
        try:
            self._text.decode(data, final)
        except UnicodeDecodeError:
            self._text = None
        if b"\0" in data:
            self._text = None

    async def keep(self) -> None:
        """On disk for good, under its own name."""
        await asyncio.to_thread(self._keep)

    def _keep(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.rename(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def media_type(self, filename: str) -> str:
        """By the first bytes; the name only tells one kind of text from another."""
        for magic, media_type in _MAGIC:
            if self._head.startswith(magic):
                return media_type
        if self._head[:4] == b"RIFF" and self._head[8:12] == b"WEBP":
            return "image/webp"
        self._look(b"", final=True)
        if self._text is None:
            return "application/octet-stream"
        return _TEXT_TYPES.get(Path(filename).suffix.lower(), "text/plain")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
