"""Reading items and their results: pages, or one. Always in input order, at any time.

An item's status is derived: its result if it has one; else processing if a lease covers it and no span does; else pending.
Unfiltered pages are windows over the dense ordinals, so any offset costs the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.errors import NotFound
from gristmill.domain.states import TERMINAL, ItemStatus
from gristmill.store import checkpoints
from gristmill.store.batches import Batch


@dataclass(frozen=True, slots=True)
class Result:
    """An item and what it came to so far. `output`, `error` and `usage` are JSON text."""

    ordinal: int
    custom_id: str
    status: ItemStatus
    content: str | None
    output: str | None
    error: str | None
    code: int | None
    usage: str | None
    history_id: int | None
    conversation_id: int | None
    attempt: int | None
    started_at: datetime | None
    processed_at: datetime | None
    checkpoint: Checkpoint | None = None  # only where it was asked for


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run that did not end its item, or ended it in an earlier run of its batch; attempt 0: it ended without running."""

    run: int
    attempt: int
    code: int
    error: str | None  # JSON
    usage: str | None  # JSON
    started_at: datetime | None
    ended_at: datetime


# What items end with that never ran: kept once here, not a million times in a column.
CANCELLED = (
    '{"type":"batch_cancelled","message":"The batch was cancelled before this request ran.",'
    '"upstream_status":null,"retryable":true,"suggestion":null}'
)
EXPIRED = (
    '{"type":"deadline_exceeded","message":"The batch\'s deadline passed before this request ran.",'
    '"upstream_status":null,"retryable":true,"suggestion":"Allow more time with deadline_seconds."}'
)
OVER_THRESHOLD = (
    '{"type":"threshold_exceeded","message":"Too many requests of the batch had failed before this one ran.",'
    '"upstream_status":null,"retryable":true,"suggestion":"See why the others failed, then retry."}'
)
OVER_BUDGET = (
    '{"type":"budget_exceeded","message":"The batch had used up its budget before this request ran.",'
    '"upstream_status":null,"retryable":true,"suggestion":"Retry: its budget begins anew."}'
)
_STANDARD_ERRORS = {499: CANCELLED, 408: EXPIRED}
_IN_A_WORD = {'{"type":"threshold_exceeded"}': OVER_THRESHOLD, '{"type":"budget_exceeded"}': OVER_BUDGET}


def error_of(code: int | None, kept: str | None) -> str | None:
    """The error (JSON) of an item, also of one that ended without one of its own."""
    if kept is None:
        return None if code is None else _STANDARD_ERRORS.get(code)
    return _IN_A_WORD.get(kept, kept)


# Ranges read once, and searched for each item: as many spans as items may wait, each for its next attempt.
_COVERED = "i.ordinal <@ (SELECT coalesce(range_agg(int4range(first, last, '[]')), '{{}}') FROM {} WHERE batch_id = $1)"
_LEASED, _WAITING = _COVERED.format("lease"), _COVERED.format("span")

# Instants as Postgres would send them: most rows share theirs with others, and as a `datetime` each takes the driver 0.5 µs, a
# quarter of what it takes for all of the row (`instant_of`).
_SELECT = f"""
SELECT i.ordinal, i.custom_id, i.history_id AS given_history_id, r.status, r.code, r.attempt, r.content, r.output,
    r.error, r.usage, r.history_id, r.conversation_id,
    timestamptz_send(r.started_at) AS started_at, timestamptz_send(r.processed_at) AS processed_at,
    r.status IS NULL
        AND {_LEASED} AND NOT {_WAITING} AS processing
FROM item i LEFT JOIN result r ON r.batch_id = $1 AND r.ordinal = i.ordinal
WHERE i.batch_id = $1
"""
# Some of the items, each with its result by its key. With statistics from before the batch its rows look like few to the
# planner, and among small batches a page of a large one looks like much: then a plain join reads all results there are, and an
# equality goes by any index that begins with the batch's id. A LIMIT and an order leave only the right way.
_EACH = _SELECT.replace(
    "LEFT JOIN result r ON r.batch_id = $1 AND r.ordinal = i.ordinal",
    "LEFT JOIN LATERAL (SELECT * FROM result r WHERE r.batch_id = $1 AND r.ordinal = i.ordinal LIMIT 1) r ON true",
)
_BY_KEY = "i.ordinal >= wanted.ordinal AND i.ordinal <= wanted.ordinal ORDER BY i.ordinal LIMIT 1"
_ITEM = f"{_EACH} AND {_BY_KEY}"
_WINDOW = f"{_EACH} AND i.ordinal >= $2 AND i.ordinal < $3 ORDER BY i.ordinal"
_STATUS = {1: ItemStatus.SUCCESS, 2: ItemStatus.FAILED}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# Of an item and its result, as `rows` finds it: the columns of _SELECT in their order, which `api/result_text.py` goes by, then
# `size` and `upto` of _WITHIN.
Row = Record


@lru_cache(maxsize=1024)
def instant_of(sent: bytes | None) -> datetime | None:
    """An instant of a row: microseconds since 2000, eight bytes, the first ones first."""
    return None if sent is None else _EPOCH + timedelta(microseconds=int.from_bytes(sent, signed=True))


def result_of(row: Record) -> Result:
    """Of a row that one of the functions below has found."""
    waiting = ItemStatus.PROCESSING if row["processing"] else ItemStatus.PENDING
    return Result(
        ordinal=row["ordinal"],
        custom_id=row["custom_id"],
        status=_STATUS.get(row["status"], waiting),
        content=row["content"],
        output=row["output"],
        error=error_of(row["code"], row["error"]),
        code=row["code"],
        usage=row["usage"],
        history_id=row["history_id"] if row["history_id"] is not None else row["given_history_id"],
        conversation_id=row["conversation_id"],
        attempt=row["attempt"],
        started_at=instant_of(row["started_at"]),
        processed_at=instant_of(row["processed_at"]),
    )


# Sizes are told by the rows themselves: nothing large is unpacked, or sent, before it is clear that it has its place.
_WITHIN = """
SELECT * FROM (
    SELECT s.*, sum(size) OVER (ORDER BY ordinal ROWS UNBOUNDED PRECEDING) AS upto FROM (
        SELECT t.*, coalesce(octet_length(content), 0) + coalesce(octet_length(output), 0) AS size FROM ({rows}) t
    ) s
) u WHERE upto - size < {most_bytes:d} ORDER BY ordinal
"""


async def rows(
    connection: Transaction,
    batch: Batch,
    *,
    limit: int,
    most_bytes: int,
    offset: int = 0,
    after: int | None = None,
    status: ItemStatus | None = None,
    error_code: int | None = None,
    custom_id: str | None = None,
    counted: bool = True,
) -> tuple[list[Record], int]:
    """Items in input order, and how many the filters match in all (0 where that is not `counted`). `after` (the last
    ordinal of a page) is flat at any depth; `offset` is, too, as long as nothing is filtered.

    They end behind the one whose content and output make `most_bytes` or more with those before it (see `cut_short`).
    """
    if status is None and error_code is None and custom_id is None:
        first = offset if after is None else after + 1
        total, found, arguments = batch.total, _WINDOW, [first, first + limit]
    else:
        condition, arguments = _filter(status, error_code, custom_id)
        alone = status if error_code is None and custom_id is None else None
        total = await _total(connection, batch, alone, condition, arguments) if counted else 0
        arguments += [-1 if after is None else after, batch.total]
        last = len(arguments)  # $last: after it; the next: the batch's size
        if custom_id is None and status not in (ItemStatus.PENDING, ItemStatus.PROCESSING):
            found = _of_ended(condition, last, limit, offset)
        else:
            found = (
                f"{_SELECT} AND {condition} AND i.ordinal > ${last} AND i.ordinal < ${last + 1} "
                f"ORDER BY i.ordinal LIMIT {limit:d} OFFSET {offset:d}"
            )
    statement = _WITHIN.format(rows=found, most_bytes=most_bytes)
    return await connection.fetch(statement, batch.id, *arguments), total


def cut_short(found: Sequence[Record], most_bytes: int) -> bool:
    """Whether what `rows` found may have ended before its limit, and before the end."""
    return bool(found) and found[-1]["upto"] >= most_bytes


def _of_ended(condition: str, last: int, limit: int, offset: int) -> str:
    """A page of those that ended with something, found block by block, in their order, until there are enough; then their
    items, one by one. Whatever the statistics say, no plan reads all results that lie ahead to sort them, nor all items to
    join them with."""
    return f"""
        SELECT found.* FROM (
            SELECT r.ordinal FROM generate_series(${last}::int + 1, ${last + 1}::int - 1, 1000) AS block (first)
            CROSS JOIN LATERAL (
                SELECT r.ordinal FROM result r
                WHERE r.batch_id = $1 AND r.ordinal >= block.first AND r.ordinal < block.first + 1000 AND {condition}
                ORDER BY r.ordinal LIMIT 1000
            ) r LIMIT {limit:d} OFFSET {offset:d}
        ) wanted CROSS JOIN LATERAL ({_ITEM}) found ORDER BY found.ordinal
    """


async def window(connection: Transaction, batch: Batch, first: int, size: int) -> list[Result]:
    """The items with ordinals first … first + size - 1."""
    rows = await connection.fetch(_WINDOW, batch.id, first, first + size)
    return [result_of(row) for row in rows]


async def at(connection: Transaction, batch: Batch, ordinals: Sequence[int]) -> list[Result]:
    """The items with these ordinals, in input order. Looked up one by one: a plain join may read the whole batch."""
    rows = await connection.fetch(
        "SELECT found.* FROM unnest($2::int[]) AS wanted (ordinal) "
        f"CROSS JOIN LATERAL ({_ITEM}) found ORDER BY found.ordinal",
        batch.id,
        list(ordinals),
    )
    return [result_of(row) for row in rows]


async def inputs(connection: Transaction, batch: Batch, ordinals: Sequence[int]) -> dict[int, str]:
    """The inputs (JSON text) of these items, by ordinal."""
    rows = await connection.fetch(
        "SELECT found.* FROM unnest($2::int[]) AS wanted (ordinal) CROSS JOIN LATERAL ("
        f"SELECT i.ordinal, i.input FROM item i WHERE i.batch_id = $1 AND {_BY_KEY}) found",
        batch.id,
        list(ordinals),
    )
    return {row["ordinal"]: row["input"] for row in rows}


# No two spans overlap: only the first that ends behind an item can have it.
_RUNNING = """
SELECT i.ordinal FROM lease l
CROSS JOIN LATERAL generate_series(l.first, l.last) AS i (ordinal)
WHERE l.batch_id = $1
    AND NOT EXISTS (SELECT FROM result r WHERE r.batch_id = $1 AND r.ordinal = i.ordinal)
    AND coalesce(
        (SELECT w.first FROM span w WHERE w.batch_id = $1 AND w.last >= i.ordinal ORDER BY w.last LIMIT 1) > i.ordinal, true
    )
ORDER BY i.ordinal LIMIT $2
"""


async def running(connection: Transaction, batch: Batch, most: int) -> list[int]:
    """The ordinals of the first items that are in flight."""
    return [row["ordinal"] for row in await connection.fetch(_RUNNING, batch.id, most)]


_FIRST_OPEN = """
SELECT least(
    (SELECT min(first) FROM span WHERE batch_id = $1), (SELECT min(first) FROM lease WHERE batch_id = $1)
)
"""


async def settled(connection: Transaction, batch: Batch) -> int:
    """The ordinal up to which every item has ended, as far as spans and leases tell; -1: not even the first."""
    if batch.status in TERMINAL:
        return batch.total - 1
    if batch.ingesting:
        return -1
    first: int | None = await connection.fetchval(_FIRST_OPEN, batch.id)
    return batch.total - 1 if first is None else first - 1


_CONDITIONS = {
    ItemStatus.SUCCESS: "r.status = 1",
    ItemStatus.FAILED: "r.status = 2",
    ItemStatus.PROCESSING: f"r.status IS NULL AND {_LEASED} AND NOT {_WAITING}",
    ItemStatus.PENDING: f"r.status IS NULL AND ({_WAITING} OR NOT {_LEASED})",
}


def _filter(status: ItemStatus | None, code: int | None, custom_id: str | None) -> tuple[str, list[Any]]:
    """A condition on the items of batch $1; its arguments begin at $2."""
    conditions: list[str] = [] if status is None else [_CONDITIONS[status]]
    arguments: list[Any] = []
    for column, value in (("r.code", code), ("i.custom_id", custom_id)):
        if value is not None:
            arguments.append(value)
            conditions.append(f"{column} = ${len(arguments) + 1}")
    if code is not None:
        conditions.append("r.status = 2")  # as in the partial index on failed results
    return " AND ".join(conditions), arguments


async def _total(
    connection: Transaction, batch: Batch, status: ItemStatus | None, condition: str, arguments: Sequence[Any]
) -> int:
    """By status alone from the counters; else counted among the batch's items."""
    if status is not None:
        counts: dict[ItemStatus, int] = {
            ItemStatus.SUCCESS: batch.success,
            ItemStatus.FAILED: batch.failed,
            ItemStatus.PROCESSING: batch.processing,
            ItemStatus.PENDING: batch.pending,
        }
        return counts[status]
    total: int = await connection.fetchval(
        "SELECT count(*) FROM item i LEFT JOIN result r ON r.batch_id = $1 AND r.ordinal = i.ordinal"
        f" WHERE i.batch_id = $1 AND {condition}",
        batch.id,
        *arguments,
    )
    return total


async def one(connection: Transaction, batch: Batch, custom_id: str) -> tuple[Result, str, list[Attempt]]:
    """An item, its input (JSON text), and the runs that did not end it, oldest first."""
    row = await connection.fetchrow(
        f"{_EACH} AND i.custom_id >= $2 AND i.custom_id <= $2 ORDER BY i.custom_id LIMIT 1",
        batch.id,
        custom_id,
    )
    if row is None:
        raise NotFound("no such item in this batch")
    found = result_of(row)
    text = (await inputs(connection, batch, [found.ordinal]))[found.ordinal]
    rows = await connection.fetch(
        """
        SELECT run, attempt, code, error, usage, started_at, ended_at FROM item_attempt
        WHERE batch_id = $1 AND ordinal = $2 ORDER BY id
        """,
        batch.id,
        found.ordinal,
    )
    return found, text, [_attempt(row) for row in rows]


async def with_checkpoints(connection: Transaction, batch: Batch, found: Sequence[Result]) -> list[Result]:
    """The same items with their checkpoints. A query of its own, for batches whose processor has some: the one that
    every page takes stays as it is."""
    known = await checkpoints.among(connection, batch.id, [one.ordinal for one in found]) if found else {}
    return [replace(one, checkpoint=known[one.ordinal]) if one.ordinal in known else one for one in found]


def _attempt(row: Record) -> Attempt:
    return Attempt(**dict(row) | {"error": error_of(row["code"], row["error"])})
