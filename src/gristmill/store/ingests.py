"""Batches whose items are still in a file: the batch is there, its items are not, and nothing of it can start.

Whoever has the lease of an ingest reads the file into one transaction, whose last act gives the lease up. A process that
dies leaves no item behind, and the next one begins anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from gristmill.db import Transaction
from gristmill.domain.errors import Conflict, Problem
from gristmill.store import endings, new_batches, schedules
from gristmill.store.new_batches import NewBatch


@dataclass(frozen=True, slots=True)
class Ingest:
    """`attempt` is the right to end it: a later attempt takes it away. `options` is JSON: how the file is to be read.

    `owned`: the bytes came with the batch and go when the ingest ends.
    """

    batch_id: UUID
    tenant_id: UUID
    file_id: UUID
    processor: str
    config: str
    total: int
    options: str
    owned: bool
    attempt: int


async def create(
    tx: Transaction, new: NewBatch, total: int, file_id: UUID, options: str, *, owned: bool = False
) -> None:
    """Store a batch of `total` items that are in a file. None of it starts before it is ingested.

    `owned`: expected bytes (`files.expect`) that are no file, and belong to the batch from now on. Raises Conflict if they
    are not expected any more.
    """
    await new_batches.insert(tx, new, total)
    statement = "INSERT INTO ingest (batch_id, file_id, options, owned) VALUES ($1, $2, $3, $4)"
    await tx.execute(statement, new.id, file_id, options, owned)
    if owned:
        noted = "DELETE FROM file_discard WHERE file_id = $1 AND tenant_id = $2"
        if await tx.execute(noted, file_id, new.tenant_id) != "DELETE 1":
            raise Conflict("the requests took too long to arrive; send them again")


_CLAIM = """
WITH next AS (
    SELECT i.batch_id FROM ingest i JOIN batch b ON b.id = i.batch_id
    WHERE (i.leased_until IS NULL OR i.leased_until < now()) AND b.processor = ANY ($2)
    ORDER BY i.batch_id LIMIT 1 FOR UPDATE OF i SKIP LOCKED
), taken AS (
    UPDATE ingest SET attempts = attempts + 1, leased_until = now() + make_interval(secs => $1::float8)
    FROM next WHERE ingest.batch_id = next.batch_id
    RETURNING ingest.batch_id, file_id, options, owned, attempts
)
SELECT t.batch_id, b.tenant_id, t.file_id, b.processor, b.config, b.total, t.options, t.owned, t.attempts
FROM taken t JOIN batch b ON b.id = t.batch_id
"""
_MINE = "batch_id = $1 AND attempts = $2"


async def claim(connection: Transaction, lease_seconds: float, processors: Sequence[str]) -> Ingest | None:
    """The oldest that nobody works on, of a batch for one of these processors. Mostly none waits: it is one statement, which
    needs no transaction around it."""
    row = await connection.fetchrow(_CLAIM, lease_seconds, processors)
    return Ingest(*row) if row else None


async def extend(tx: Transaction, ingest: Ingest, lease_seconds: float) -> bool:
    """Whether the ingest is still this attempt's."""
    extended = f"UPDATE ingest SET leased_until = now() + make_interval(secs => $3::float8) WHERE {_MINE}"
    return str(await tx.execute(extended, ingest.batch_id, ingest.attempt, lease_seconds)) == "UPDATE 1"


async def complete(
    tx: Transaction, ingest: Ingest, *, failed: Sequence[int] = (), config: str | None = None
) -> bool:
    """The items are there: let them start, all but the `failed` ones, whose results are. Answers whether it was ours to end.

    `config`: what the batch is to run with, where the items had a say in it.
    """
    if not await _give_up(tx, ingest):
        return False
    # The row first: a pause or a cancel that comes now waits for it, and then finds the schedule.
    if config is not None:
        await tx.execute("UPDATE batch SET config = $2 WHERE id = $1", ingest.batch_id, config)
    ending = await tx.fetchrow("SELECT ending FROM batch WHERE id = $1 FOR UPDATE", ingest.batch_id)
    await new_batches.lay_spans(tx, ingest.batch_id, ingest.total, failed)
    if ending is not None and ending["ending"] is None:
        await schedules.add(tx, ingest.batch_id)
    if failed:
        counted = """
            UPDATE batch_count SET failed = $2, kept = $2, finished_from = $2, failed_from = $2 WHERE batch_id = $1
        """
        await tx.execute(counted, ingest.batch_id, len(failed))
    if len(failed) == ingest.total:
        await endings.finish(tx, [ingest.batch_id])
    return True


async def refuse(tx: Transaction, ingest: Ingest, problems: Sequence[Problem]) -> bool:
    """The file cannot be the batch's: it ends as failed, and nothing of it has run. Answers whether it was ours to end."""
    if not await _give_up(tx, ingest):
        return False
    error = {
        "type": "bad_source",
        "message": "The file cannot be read as requests: nothing of this batch was stored or run.",
        "errors": [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in problems[:100]],
    }
    await endings.refuse(tx, ingest.batch_id, orjson.dumps(error).decode())
    return True


async def _give_up(tx: Transaction, ingest: Ingest) -> bool:
    """Bytes of the batch's own are due at once: `worker/discards.py` removes them."""
    gone = await tx.execute(f"DELETE FROM ingest WHERE {_MINE}", ingest.batch_id, ingest.attempt)
    if gone == "DELETE 1" and ingest.owned:
        due = "INSERT INTO file_discard (file_id, tenant_id, due_at) VALUES ($1, $2, now())"
        await tx.execute(due, ingest.file_id, ingest.tenant_id)
    return str(gone) == "DELETE 1"
