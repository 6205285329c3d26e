"""Retry: an ended batch runs failed items again. What they ended with moves into the attempt history, with its run.

Only here does a result go away. Whatever a worker of an earlier run still brings must not count in its place:
`batch.first_lease_id` tells the leases of the present run from those before (`withdraw_late`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from gristmill.db import Transaction
from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.states import TERMINAL, ResultStatus
from gristmill.store import batches, new_batches, schedules, transitions
from gristmill.store.batches import Batch
from gristmill.store.claims import NEW_LEASE_ID
from gristmill.store.new_batches import NewUpstream
from gristmill.store.verdicts import End

# For the one statement whose work grows with the items: a million of them take about 20 s.
MOVE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which failed items run again: those with one of the codes and one of the custom ids; None: any."""

    error_codes: Collection[int] | None = None
    custom_ids: Sequence[str] | None = None


ALL = Choice()

_ENDED = "SELECT run, upstream FROM batch WHERE id = $1 AND tenant_id = $2 AND status = ANY ($3) FOR UPDATE"


async def retry(
    tx: Transaction,
    tenant_id: UUID,
    batch_id: UUID,
    choice: Choice = ALL,
    upstream: NewUpstream | None = None,
    *,
    key_given: bool = False,
) -> Batch:
    """Begin a new run of an ended batch. Raises NotFound; Conflict unless it has ended; Invalid if nothing is chosen.

    Items that were refused when the batch was made are never chosen: they would be refused again.
    `upstream` takes the place of what the batch brought. Its own key went when it ended: whoever retries says with which
    one it is to go on (`key_given`), be it the operator's.
    """
    ended = await tx.fetchrow(_ENDED, batch_id, tenant_id, [status.value for status in TERMINAL])
    if ended is None:
        raise await transitions.refusal(tx, tenant_id, batch_id, "retry")
    _check_upstream(ended["upstream"], upstream, key_given)
    ordinals = (
        None
        if choice.custom_ids is None
        else await _ordinals(tx, batch_id, list(set(choice.custom_ids)), choice)
    )
    await _clear(tx, batch_id)
    moved = await _move(tx, batch_id, ended["run"], ordinals, choice.error_codes)
    if not moved[0]:
        raise Invalid([Problem("", "nothing_to_retry", "no failed request of this batch is chosen")])
    await tx.execute(_UNCOUNT, batch_id, *moved)
    await tx.execute(_BEGIN, batch_id)
    if upstream is not None:
        await new_batches.bring(tx, batch_id, upstream)
    await schedules.add(tx, batch_id)
    return await batches.get(tx, tenant_id, batch_id)


def _check_upstream(brought: str | None, upstream: NewUpstream | None, key_given: bool) -> None:
    if brought is None and upstream is not None:
        raise Invalid([Problem("/upstream", "no_upstream", "the batch was made without one")])
    if brought is not None and orjson.loads(brought)["own_key"] and not key_given:
        detail = "the batch's own key was dropped when it ended: give one again, or null for the operator's"
        raise Invalid([Problem("/upstream/api_key", "missing", detail)])


_KNOWN = "SELECT custom_id, ordinal FROM item WHERE batch_id = $1 AND custom_id = ANY ($2)"


async def _ordinals(tx: Transaction, batch_id: UUID, wanted: list[str], choice: Choice) -> list[int]:
    known = {row["custom_id"]: row["ordinal"] for row in await tx.fetch(_KNOWN, batch_id, wanted)}
    if len(known) < len(wanted):
        raise Invalid(
            [
                Problem(f"/custom_ids/{position}", "unknown_custom_id", "no such request in this batch")
                for position, custom_id in enumerate(choice.custom_ids or ())
                if custom_id not in known
            ]
        )
    return sorted(known.values())


async def _clear(tx: Transaction, batch_id: UUID) -> None:
    """What workers left over whose items others had recorded when the batch ended. First the leases: a flush that holds
    one is waited for, and what it still puts back is seen."""
    await tx.execute("DELETE FROM lease WHERE batch_id = $1", batch_id)
    await tx.execute("DELETE FROM span WHERE batch_id = $1", batch_id)


# One statement for any number of items. The conditions are left out where all are meant: `$3 IS NULL OR …` would keep
# Postgres from finding given ordinals by key.
_MOVE = f"""
WITH chosen AS (
    DELETE FROM result WHERE batch_id = $1 AND status = {ResultStatus.FAILED:d} AND NOT (code = 400 AND attempt = 0)
        {{conditions}}
    RETURNING ordinal, attempt, code, error, usage, started_at, processed_at
), history AS (
    INSERT INTO item_attempt (batch_id, ordinal, run, attempt, code, error, usage, started_at, ended_at)
    SELECT $1, ordinal, $2, attempt, code, error, usage, started_at, processed_at FROM chosen ORDER BY ordinal
), waiting AS (
    INSERT INTO span (batch_id, first, last)
    SELECT $1, min(ordinal), max(ordinal) FROM (
        SELECT ordinal, ordinal - row_number() OVER (ORDER BY ordinal) AS island FROM chosen
    ) numbered GROUP BY island ORDER BY 2
)
SELECT count(*)::int, (count(*) FILTER (WHERE code = 499))::int, (count(*) FILTER (WHERE code = 408))::int FROM chosen
"""


async def _move(
    tx: Transaction, batch_id: UUID, run: int, ordinals: list[int] | None, codes: Collection[int] | None
) -> tuple[int, int, int]:
    """Results into the history, their items into spans; how many that were, and of them cancelled and expired."""
    conditions, arguments = "", list[Any]()
    for column, values in (("ordinal", ordinals), ("code", codes)):
        if values is not None:
            arguments.append(list(values))
            conditions += f" AND {column} = ANY (${len(arguments) + 2})"
    statement = _MOVE.format(conditions=conditions)
    [(failed, cancelled, expired)] = await tx.fetch(
        statement, batch_id, run, *arguments, timeout=MOVE_SECONDS
    )
    return failed, cancelled, expired


# Tokens and costs stay: they were spent. Speed is measured anew, and limits are judged by what the new run brings.
_UNCOUNT = """
UPDATE batch_count SET failed = failed - $2, cancelled = cancelled - $3, expired = expired - $4,
    kept = success + failed - $2, rate = 0, started_at = NULL, last_result_at = NULL,
    finished_from = success + (failed - $2) - (cancelled - $3) - (expired - $4),
    failed_from = (failed - $2) - (cancelled - $3) - (expired - $4),
    tokens_from = prompt_tokens + completion_tokens
WHERE batch_id = $1
"""
_BEGIN = f"""
UPDATE batch SET status = 'in_progress', ending = NULL, error = NULL, completed_at = NULL, cancelled_at = NULL,
    expires_at = NULL, run = run + 1, deadline_at = clock_timestamp() + make_interval(secs => deadline_seconds),
    first_lease_id = {NEW_LEASE_ID}
WHERE id = $1
"""

_WITHDRAW = """
DELETE FROM result r USING unnest($1::uuid[], $2::int[], $3::bigint[]) AS given (b, o, lease_id), batch
WHERE batch.id = given.b AND given.lease_id < batch.first_lease_id AND r.batch_id = given.b AND r.ordinal = given.o
RETURNING r.batch_id, r.ordinal
"""


async def withdraw_late(tx: Transaction, inserted: Sequence[End], held: set[int]) -> Sequence[End]:
    """Take back results that an earlier run of their batch brought only now; answers with those that stay.

    They could be inserted only because a retry had committed: in an ended batch every item has a result. So the batch
    as it is read here is that of the new run.
    """
    late = [e for e in inserted if e.lease.id not in held]
    if not late:
        return inserted
    rows = await tx.fetch(
        _WITHDRAW, [e.lease.batch_id for e in late], [e.ordinal for e in late], [e.lease.id for e in late]
    )
    gone = {(row["batch_id"], row["ordinal"]) for row in rows}
    return [e for e in inserted if (e.lease.batch_id, e.ordinal) not in gone]
