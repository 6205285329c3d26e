"""Rows on their way into a table by COPY, as text or in Postgres' binary form.

The driver makes binary rows of records value by value, a UUID and a time again for each row: of a worker's CPU that takes
0.8 µs more for a result (docs/performance.md).
"""

import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

import asyncpg

from gristmill.db import Transaction

NULL = "\\N"
# Characters or bytes sent at a time, or one row if that is longer: what is written is never there twice as a whole.
PIECE = 256 * 1024
# Up to so many rows, of so many characters, go into the statement they belong to. There a row costs more than by a COPY, but
# that is two round trips, and where others have the cores each waits for its turn (docs/decisions/0021-few-in-one-statement.md).
FEW = 200
FEW_CHARACTERS = 1024 * 1024
# Around rows in the binary form: its signature, no flags, nothing more of a header; and in place of a row's number of fields.
_BEGIN = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)


def are_few(rows: Sequence[Any], size: Callable[[Any], int]) -> bool:
    """Whether they need no COPY. `size`: the characters of one that may be many."""
    return len(rows) <= FEW and sum(map(size, rows)) <= FEW_CHARACTERS


def escaped(text: str) -> str:
    """A text of any characters but NUL as a field: what would end a field or a row is escaped."""
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return text


async def copy(tx: Transaction, table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    """Each line is a row: its fields in the order of the columns, separated by tabs, with a newline at its end.
    Raises asyncpg.DataError for a text that is no UTF-8, as the driver does for an argument."""
    await tx.copy_to_table(table, columns=columns, source=_pieces(lines))


async def copy_binary(tx: Transaction, table: str, columns: Sequence[str], pieces: Iterable[bytes]) -> None:
    """Each piece is some rows, packed: how many fields, then each with its length before it. Raises as `copy`, also for a number
    that is too large for its column."""
    await tx.copy_to_table(table, columns=columns, source=_framed(pieces), format="binary")


async def _pieces(lines: Iterable[str]) -> AsyncIterator[bytes]:
    for piece in _gathered(lines):
        yield _encoded(piece)


async def _framed(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    yield _BEGIN
    try:
        for piece in pieces:
            yield piece
    except (UnicodeEncodeError, struct.error):
        raise _unstorable() from None
    yield _END


def _gathered(lines: Iterable[str]) -> Iterator[list[str]]:
    piece: list[str] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= PIECE:
            yield piece
            piece, size = [], 0
    yield piece


def _encoded(piece: Iterable[str]) -> bytes:
    try:
        return "".join(piece).encode()
    except UnicodeEncodeError:
        raise _unstorable() from None


def _unstorable() -> asyncpg.DataError:
    """In place of an error that holds what was to be written."""
    return asyncpg.DataError(
        "a value does not fit: a character that UTF-8 has not, or a number that is too large"
    )
