"""Rows on their way into a table by COPY, as text.

The driver makes binary rows of records value by value: 1.9 µs for a result, where its line of text takes 0.7. Postgres takes
the same for both (docs/performance.md).
"""

from collections.abc import AsyncIterator, Iterable, Sequence

import asyncpg

from gristmill.db import Transaction

NULL = "\\N"
_PIECE_CHARACTERS = (
    256 * 1024
)  # sent at a time, or one row if that is longer: a flush is never there twice as a whole


def escaped(text: str | None) -> str:
    """A text of any characters but NUL as a field: what ends a field or a row in it is escaped."""
    if text is None:
        return NULL
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return text


async def copy(tx: Transaction, table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    """Each line is a row: its fields in the order of the columns, separated by tabs, with a newline at its end.
    Raises asyncpg.DataError for a text that is no UTF-8, as the driver does for an argument."""
    await tx.copy_to_table(table, columns=columns, source=_pieces(lines))


async def _pieces(lines: Iterable[str]) -> AsyncIterator[bytes]:
    piece: list[str] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= _PIECE_CHARACTERS:
            yield _encoded(piece)
            piece, size = [], 0
    yield _encoded(piece)


def _encoded(piece: Iterable[str]) -> bytes:
    try:
        return "".join(piece).encode()
    except UnicodeEncodeError:  # a lone surrogate; the error holds all of the piece
        raise asyncpg.DataError("a text has a character that UTF-8 has not") from None
