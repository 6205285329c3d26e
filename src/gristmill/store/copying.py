"""Rows on their way into a table by COPY, as text.

The driver makes binary rows of records value by value, a UUID and a time again for each row: of a worker's CPU that takes
0.8 µs more for a result (docs/performance.md).
"""

from collections.abc import AsyncIterator, Iterable, Sequence

import asyncpg

from gristmill.db import Transaction

NULL = "\\N"
# Sent at a time, or one row if that is longer: what is written is never there twice as a whole.
_PIECE_CHARACTERS = 256 * 1024


def escaped(text: str) -> str:
    """A text of any characters but NUL as a field: what would end a field or a row is escaped."""
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
