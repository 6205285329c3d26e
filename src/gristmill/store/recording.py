"""Recording what a worker's items came to: one transaction per flush, whatever the number of items.

Exactness comes from the primary key of `result`: only rows really inserted are counted. A flush may be sent twice (its
commit was not acknowledged), and a worker that was declared dead may still send one: neither changes a count.

Lock order, kept by everything that touches these tables: leases, schedules, results, chats, checkpoints, spans, counters
by ascending batch, then batch and outbox.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.store import (
    checkpoints,
    copying,
    counts,
    endings,
    histories,
    result_rows,
    retries,
    schedules,
    spans,
    turns,
)
from gristmill.store.counts import Tally
from gristmill.store.verdicts import End, Ended, Retried

# Below this many results one INSERT costs less than a COPY (docs/performance.md); of those that need statements of their own.
COPY_FROM = 50


@dataclass(frozen=True, slots=True)
class Flush:
    """All a worker has to say at once. `remaining` is what each touched lease still has to come, afterwards."""

    remaining: Mapping[int, int]
    ended: Sequence[End]
    retried: Sequence[Retried] = ()
    unstarted: Sequence[tuple[int, spans.Waiting]] = ()  # (lease id, items given back without a run)

    def apart(self) -> "list[Flush]":
        """The same, result by result, and last whatever goes back to wait."""
        back = Counter(
            [r.ended.lease.id for r in self.retried] + [lease_id for lease_id, _ in self.unstarted]
        )
        left = Counter(dict(self.remaining))
        left.update(back)
        left.update(e.lease.id for e in self.ended)
        flushes = []
        for ended in self.ended:
            left[ended.lease.id] -= 1
            flushes.append(Flush({ended.lease.id: left[ended.lease.id]}, [ended]))
        if back:
            flushes.append(
                Flush(
                    {lease_id: self.remaining[lease_id] for lease_id in back},
                    [],
                    self.retried,
                    self.unstarted,
                )
            )
        return flushes


async def record(tx: Transaction, worker_id: int, flush: Flush, *, alone: bool = True) -> int:
    """Write a flush; answers with how many batches ended by it.

    `alone`: nobody else can have recorded any of it, so rows go in by COPY, or with all the rest in one statement, and a row that
    is there already raises UniqueViolationError: send it again, in a new transaction, with `alone=False`.
    """
    if alone and _are_few(flush) and (counted := await _record_few(tx, worker_id, flush)):
        finished = [row for row in counted if row["id"] is not None]
        others = [row["batch_id"] for row in counted if row["complete"] and row["id"] is None]
        return await endings.tell(tx, finished) + await endings.finish(tx, sorted(others))
    held = await _hold(tx, worker_id, flush.remaining)
    holds_all = held.issuperset(flush.remaining)
    again = [r for r in flush.retried if r.ended.lease.id in held]
    alive = await schedules.alive(tx, {r.ended.lease.batch_id for r in again}) if again else set()
    ended = [*flush.ended, *(r.ended for r in again if r.ended.lease.batch_id not in alive)]
    again = [r for r in again if r.ended.lease.batch_id in alive]
    if not holds_all:
        ended = await _of_batches_that_are_there(tx, ended, held)

    eventful = _eventful(ended)
    await turns.number(tx, eventful)
    copy = alone and len(ended) >= COPY_FROM and holds_all
    inserted = await (_copy(tx, ended) if copy else _insert(tx, ended))
    if not holds_all:
        inserted = await retries.withdraw_late(tx, inserted, held)
    await _keep_attempts(tx, again)
    new = eventful if inserted is ended else _eventful(inserted)
    await turns.append(tx, new)
    await _give_chats_up(tx, eventful)
    await _forget_checkpoints(tx, new)
    back = [_waiting(r) for r in again] + [w for lease_id, w in flush.unstarted if lease_id in held]
    await spans.put_back(tx, spans.joined(back))
    return await endings.finish(tx, await counts.add(tx, _tallies(inserted)))


def _eventful(ended: Sequence[End]) -> list[Ended]:
    """Those of which more is to be kept than an output, perhaps."""
    return [e for e in ended if type(e) is Ended]


def _are_few(flush: Flush) -> bool:
    """And nothing but a row of `result` is to be written of any."""
    return (
        bool(flush.ended)
        and copying.are_few(flush.ended, result_rows.size)
        and not flush.retried
        and not flush.unstarted
        and not any(e.turn or e.history_id is not None or e.checkpointed for e in _eventful(flush.ended))
    )


def _holding(only: str = "true") -> str:
    """SQL, of a WITH: `held`, the leases $1 that are still of the worker $3 and have more than $2 to come. They are brought down
    to that if `only` is true. Rows are named by arrays, not by a join: see `claims._SET_REMAINING`."""
    return f"""
given AS (SELECT * FROM unnest($1::bigint[], $2::int[]) AS given (id, remaining)),
held AS (
    SELECT id FROM lease
    WHERE id = ANY ($1::bigint[]) AND worker_id IS NOT DISTINCT FROM $3
        AND remaining > ($2::int[])[array_position($1::bigint[], id)]
    ORDER BY id FOR UPDATE
),
ended AS (
    DELETE FROM lease WHERE {only} AND id = ANY (ARRAY(SELECT id FROM held JOIN given USING (id) WHERE remaining = 0))
),
lowered AS (
    UPDATE lease SET remaining = (SELECT given.remaining FROM given WHERE given.id = lease.id)
    WHERE {only} AND id = ANY (ARRAY(SELECT id FROM held JOIN given USING (id) WHERE remaining > 0))
)
"""


_HOLD = f"WITH {_holding()} SELECT id FROM held"


async def _hold(tx: Transaction, worker_id: int, remaining: Mapping[int, int]) -> set[int]:
    """Lock those leases that are still this worker's and have not yet been brought down to `remaining`, and bring them down.

    A flush whose commit was not acknowledged is sent again: if it had committed, its leases are not held a second time,
    so no item is put back twice.
    """
    rows = await tx.fetch(_HOLD, list(remaining), list(remaining.values()), worker_id)
    return {row["id"] for row in rows}


async def _of_batches_that_are_there(tx: Transaction, ended: Sequence[End], held: set[int]) -> list[End]:
    """Without what a deleted batch would be left with. Leases go first when a batch is deleted: one that is held says
    enough. The others' batches cannot be deleted before the caller's transaction ends."""
    doubtful = {e.lease.batch_id for e in ended if e.lease.id not in held}
    there = await tx.fetch("SELECT id FROM batch WHERE id = ANY ($1) FOR KEY SHARE", sorted(doubtful))
    gone = doubtful - {row["id"] for row in there}
    return [e for e in ended if e.lease.batch_id not in gone]


def _inserting(at: int) -> str:
    """SQL: the rows of `result` whose columns are the parameters from `at` on."""
    columns = ", ".join(
        f"${number}::{kind}[]" for number, kind in enumerate(result_rows.COLUMNS.values(), at)
    )
    return f"INSERT INTO result ({', '.join(result_rows.COLUMNS)}) SELECT * FROM unnest({columns})"


_INSERT = f"{_inserting(1)} ON CONFLICT DO NOTHING RETURNING batch_id, ordinal"
# In the order of locks: the rows wait for the leases, and the counters for the rows. By count(*), not EXISTS, which would not
# read them all: a counter that another transaction has changed meanwhile is looked at again with what was read, and to write
# more rows then is refused by Postgres.
_HOLDS_ALL = "(SELECT count(*) FROM held) = cardinality($1)"
_FEW = f"""
WITH {_holding(_HOLDS_ALL)},
inserted AS ({_inserting(4)} WHERE {_HOLDS_ALL} RETURNING ordinal),
{counts.adding(4 + len(result_rows.COLUMNS), once="(SELECT count(*) FROM inserted) = cardinality($4)")},
whole AS (SELECT * FROM counted WHERE complete AND failure_action IS NULL AND budget_action IS NULL),
{endings.finishing("ARRAY(SELECT batch_id FROM whole)", "whole")}
SELECT counted.batch_id, complete, ends.* FROM counted LEFT JOIN ends ON ends.id = counted.batch_id
"""


async def _record_few(tx: Transaction, worker_id: int, flush: Flush) -> list[Record]:
    """In one statement, all or nothing; answers with the batches that it counted, and of those that have ended by it what
    `endings.tell` needs. One with limits of its own may be complete and have no end yet: the same statement cannot judge what
    it counts. None at all: this worker does not hold all of the leases any more, and nothing is changed."""
    return await tx.fetch(_FEW, *_few(worker_id, flush))


def _few(worker_id: int, flush: Flush) -> list[Any]:
    rows = _columns(sorted(flush.ended, key=_key))
    leases = [list(flush.remaining), list(flush.remaining.values()), worker_id]
    return [*leases, *rows, *counts.arguments(_tallies(flush.ended))]


def _key(e: End) -> tuple[UUID, int]:
    """Rows go in by it, so that two flushes with the same rows wait for each other instead of deadlocking."""
    return e.lease.batch_id, e.ordinal


def _columns(ended: Sequence[End]) -> list[list[Any]]:
    return [list(column) for column in zip(*map(result_rows.values, ended), strict=True)]


async def _copy(tx: Transaction, ended: Sequence[End]) -> Sequence[End]:
    await copying.copy_binary(tx, "result", list(result_rows.COLUMNS), result_rows.packed(ended))
    return ended


async def _insert(tx: Transaction, ended: Sequence[End]) -> Sequence[End]:
    """An item may be in one flush twice: a crash of Postgres forgot its claim, and this worker, which ran it all the same,
    claimed it again. Its first result is the one that goes in, and counts.
    """
    firsts = {_key(e): e for e in reversed(ended)}
    if not firsts:
        return []
    rows = await tx.fetch(_INSERT, *_columns([firsts[key] for key in sorted(firsts)]))
    new = {(row["batch_id"], row["ordinal"]) for row in rows}
    return [e for e in ended if (key := _key(e)) in new and firsts[key] is e]


async def _keep_attempts(tx: Transaction, again: Sequence[Retried]) -> None:
    failed = [r.ended for r in again if not r.waiting]
    if not failed:
        return
    await tx.execute(
        """
        INSERT INTO item_attempt (batch_id, ordinal, run, attempt, code, error, started_at)
        SELECT g.b, g.o, batch.run, g.a, g.c, g.e, g.s
        FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::text[], $6::timestamptz[]) AS g (b, o, a, c, e, s)
        JOIN batch ON batch.id = g.b
        """,
        [e.lease.batch_id for e in failed],
        [e.ordinal for e in failed],
        [e.lease.attempt for e in failed],
        [e.code for e in failed],
        [e.error for e in failed],
        [e.lease.started_at for e in failed],
    )


async def _give_chats_up(tx: Transaction, ended: Sequence[Ended]) -> None:
    """Also those of items that another worker recorded meanwhile: what has ended keeps no chat."""
    seats = [
        histories.Seat(e.history_id, e.lease.batch_id, e.ordinal) for e in ended if e.history_id is not None
    ]
    await histories.leave(tx, seats)


async def _forget_checkpoints(tx: Transaction, inserted: Sequence[Ended]) -> None:
    done = [e for e in inserted if e.checkpointed]
    if done:
        await checkpoints.forget_data(tx, [e.lease.batch_id for e in done], [e.ordinal for e in done])


def _waiting(r: Retried) -> spans.Waiting:
    lease, ordinal = r.ended.lease, r.ended.ordinal
    return spans.Waiting(
        lease.batch_id, ordinal, ordinal, r.attempts_used, lease.losses, r.delay_seconds, r.waiting
    )


def _tallies(inserted: Sequence[End]) -> dict[UUID, Tally]:
    tallies: dict[UUID, Tally] = {}
    for lease, neighbours in groupby(inserted, attrgetter("lease")):
        ended = list(neighbours)
        tally = tallies.setdefault(lease.batch_id, Tally())
        if tally.started_at is None or lease.started_at < tally.started_at:
            tally.started_at = lease.started_at
        tally.ordinals += [e.ordinal for e in ended]
        tally.success += len(ended)
        for e in _eventful(ended):
            if e.code is not None:
                tally.success -= 1
                tally.failed += 1
            tally.calls += e.calls
            tally.prompt_tokens += e.prompt_tokens
            tally.completion_tokens += e.completion_tokens
            tally.cost_microusd += e.cost_microusd
    return tallies
