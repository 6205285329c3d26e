"""How a document gets from the child to us: lines of JSON, small ones, so that reading them never holds up the event loop.

The first line has the head, then come pieces of pages in order, then `{"end": …}`; or one line `{"refused": …}`.
Nothing in them is trusted: the child may have been taken over by the document.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from gristmill.documents.document import Document, Page, Table
from gristmill.documents.refusal import CODES, Refused

_PIECE = 64 * 1024  # characters of text, or of cells, to a line


def lines(document: Document) -> Iterator[bytes]:
    yield _line({"media_type": document.media_type, "metadata": _strings(document.metadata)})
    for page in document.pages:
        yield _line({"page": page.number, "scanned": page.scanned, "same": page.text == page.markdown})
        yield from (_line({"markdown": piece}) for piece in _pieces(page.markdown))
        if page.text != page.markdown:
            yield from (_line({"text": piece}) for piece in _pieces(page.text))
        for table in page.tables:
            yield from _table(table)
    yield _line({"end": True, "language": document.language, "total_pages": document.total_pages})


def refusal(refused: Refused) -> bytes:
    return _line({"refused": refused.code, "message": refused.message, "suggestion": refused.suggestion})


def _table(table: Table) -> Iterator[bytes]:
    yield _line({"table": True})
    held: list[list[str]] = []
    size = 0
    for row in table.rows:
        held.append([_clean(cell) for cell in row])
        size += sum(map(len, row)) + len(row)
        if size > _PIECE:
            yield _line({"rows": held})
            held, size = [], 0
    if held:
        yield _line({"rows": held})


def _pieces(text: str) -> Iterator[str]:
    return (_clean(text[start : start + _PIECE]) for start in range(0, len(text), _PIECE))


def _strings(metadata: dict[str, str]) -> dict[str, str]:
    return {key: _clean(value)[:1000] for key, value in metadata.items() if value.strip()}


def _clean(text: str) -> str:
    """No NUL, which Postgres cannot keep, and no half of a surrogate pair, which UTF-8 cannot; two halves are joined."""
    return text.replace("\x00", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record) + b"\n"


class Assembler:
    """Puts the lines together again. `feed` raises Refused if the child refused, ValueError if a line makes no sense."""

    def __init__(self) -> None:
        self._head: dict[str, Any] | None = None
        self._pages: list[_Growing] = []
        self.document: Document | None = None  # once the last line was fed

    def feed(self, line: bytes) -> None:
        record = orjson.loads(line)
        if "refused" in record:
            raise _refused(record)
        if self._head is None:
            self._head = {"media_type": str(record["media_type"]), "metadata": dict(record["metadata"])}
        elif "end" in record:
            pages = tuple(page.done() for page in self._pages)
            total = record["total_pages"]
            self.document = Document(
                **self._head,
                pages=pages,
                language=record["language"],
                total_pages=None if total is None else int(total),
            )
        elif "page" in record:
            self._pages.append(_Growing(len(self._pages) + 1, bool(record["scanned"]), bool(record["same"])))
        else:
            self._pages[-1].take(record)


class _Growing:
    def __init__(self, number: int, scanned: bool, same: bool) -> None:
        self.number, self.scanned, self.same = number, scanned, same
        self.text: list[str] = []
        self.markdown: list[str] = []
        self.tables: list[list[tuple[str, ...]]] = []

    def take(self, record: dict[str, Any]) -> None:
        if "markdown" in record:
            self.markdown.append(record["markdown"])
        elif "text" in record:
            self.text.append(record["text"])
        elif "table" in record:
            self.tables.append([])
        else:
            self.tables[-1].extend(map(tuple, record["rows"]))

    def done(self) -> Page:
        markdown = "".join(self.markdown)
        tables = tuple(Table(self.number, tuple(rows)) for rows in self.tables)
        return Page(
            self.number, markdown if self.same else "".join(self.text), markdown, tables, self.scanned
        )


def _refused(record: dict[str, Any]) -> Refused:
    code = record["refused"]
    if code not in CODES:
        raise ValueError("unknown code")
    return Refused(code, str(record["message"])[:500], str(record["suggestion"])[:500])
