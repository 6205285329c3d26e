"""One file out of a multipart/form-data body, piece by piece: nothing of it is kept in memory or on disk here, save small
texts that stand beside it where they are allowed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gristmill.domain.errors import Invalid, Problem

FIELD = "file"
_MAX_PARTS = 20
_MAX_NAME = 256  # of a part, as far as a refusal tells it
_MAX_TEXT_BYTES = 64 * 1024


@dataclass(slots=True)
class _Part:
    name: str = ""
    filename: str | None = None
    header: bytes = b""
    value: bytes = b""


@dataclass(slots=True)
class FilePart:
    """Fed with pieces of the body; answers with pieces of the file. The name is known before the first of them.

    `called`: the file's field. `lenient`: parts beside the file are passed over, and those that are texts are in `texts` by
    their names, at the end.
    """

    filename: str | None = None
    called: str = FIELD
    lenient: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    _value: bytes = b""
    _in_file: bool = False
    _part: _Part = field(default_factory=_Part)
    _parts: int = 0
    _ready: list[bytes] = field(default_factory=list)
    _ended: bool = False

    async def pieces(self, content_type: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Raises Invalid unless the body has one part called `file`, and no other."""
        try:
            parser = self._parser(content_type)
            async for piece in body:
                parser.write(piece)
                for ready in self._ready:
                    yield ready
                self._ready.clear()
        except FormParserError:
            raise _refusal("invalid_multipart", "the body is not valid multipart/form-data") from None
        if not self._ended:
            raise _refusal("invalid_multipart", "the multipart/form-data body ends too early")
        if self.filename is None:
            raise _refusal("missing", f"the form has no file called {self.called}")

    def _parser(self, content_type: str) -> MultipartParser:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _refusal("invalid_multipart", "the media type names no boundary")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._part = _Part()
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _refusal("too_many_parts", f"the form has more than {_MAX_PARTS} parts")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_end(self) -> None:
        if self._part.header.lower() == b"content-disposition":
            _, options = parse_options_header(self._part.value)
            self._part.name = _text(options.get(b"name", b""))
            filename = options.get(b"filename")
            self._part.filename = None if filename is None else _text(filename)
        self._part.header = self._part.value = b""

    def _headers_finished(self) -> None:
        self._in_file = self._part.name == self.called and self._part.filename is not None
        self._value = b""
        if not self._in_file:
            if not self.lenient:
                raise _refusal(
                    "unknown_field", f"the form takes one file, called {self.called}, and nothing else"
                )
            return
        if self.filename is not None:
            raise _refusal("too_many_files", "one file at a time")
        self.filename = self._part.filename

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._ready.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_TEXT_BYTES:
            raise _refusal(
                "field_too_large", f"a part beside the file is larger than {_MAX_TEXT_BYTES} bytes"
            )

    def _part_end(self) -> None:
        if not self._in_file and self._part.filename is None:
            text = _text(self._value)
            if "\0" in text:
                raise _refusal("nul_character", "the character NUL cannot be stored", self._part.name)
            self.texts[self._part.name] = text

    def _end(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _refusal("invalid_utf8", "names in the form must be UTF-8") from None


def _refusal(code: str, detail: str, name: str = FIELD) -> Invalid:
    return Invalid([Problem(name[:_MAX_NAME], code, detail)])
