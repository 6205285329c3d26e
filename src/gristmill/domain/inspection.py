"""What there is to know of a file when all of it has passed by once: size, hash, kind, lines."""

import codecs
import hashlib

from gristmill.domain.counting import Lines, Records
from gristmill.domain.media import HEAD_BYTES, TAIL_BYTES, media_type

_JSON = (b"{", b"[")  # no header of a CSV file begins like this, and counting records costs most
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Inspection:
    """Fed with all pieces in their order, the first of at least 3 bytes if there are as many. 3 ms per MiB of JSON lines,
    25 ms of CSV: not for the event loop's thread."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._head = b""
        self._tail = b""
        self._utf8: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
        self._utf16: codecs.IncrementalDecoder | None = None
        self._lines: Lines | None = Lines()
        self._records: Records | None = Records()

    def feed(self, data: bytes) -> None:
        first = self.size == 0
        self.size += len(data)
        self._hash.update(data)
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        self._look(data)
        if first and data.startswith(_UTF_16):
            self._utf16 = codecs.getincrementaldecoder("utf-16")("replace")
        if first and data.lstrip().startswith(_JSON):
            self._records = None
        self._count(data.removeprefix(codecs.BOM_UTF8) if first else data)

    def _look(self, data: bytes, final: bool = False) -> None:
        """UTF-8 is what decodes as such and holds no NUL."""
        if self._utf8 is None:
            return
        try:
            self._utf8.decode(data, final)
        except UnicodeDecodeError:
            self._utf8 = None
        if b"\0" in data:
            self._utf8 = None

    def _count(self, data: bytes) -> None:
        """In every encoding that writes ASCII as ASCII, and in UTF-16: which one it is, is asked later."""
        if self._utf16 is not None:
            data = self._utf16.decode(data).encode("utf-8", "replace")
        if b"\0" in data:
            self._lines = self._records = None
        if self._lines is not None:
            self._lines.feed(data)
        if self._records is not None:
            self._records.feed(data)

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    @property
    def lines(self) -> int | None:
        """Lines that are not blank; None for what is no text."""
        return None if self._lines is None or self._is_binary else self._lines.count

    @property
    def records(self) -> int | None:
        """Records as a CSV file has them, the header among them; None for what is no text, or JSON."""
        return None if self._records is None or self._is_binary else self._records.count

    @property
    def _is_binary(self) -> bool:
        return not self.media_type("").startswith(("text/", "message/", "application/octet-stream"))

    def media_type(self, filename: str) -> str:
        self._look(b"", final=True)
        return media_type(self._head, self._tail, filename, is_text=self._utf8 is not None)
