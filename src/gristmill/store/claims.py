"""Claiming: the front of a waiting span becomes a lease of one worker.

No item row is ever touched by this. What is claimed comes from one batch, chosen fairly (`store/choice.py`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.store import announcements, assignments, choice, circuits, histories, service_limits, spans
from gristmill.store.assignments import Assignment
from gristmill.store.columns import columns
from gristmill.store.schedules import Front

# A claim cuts at most so many spans: enough for a full claim of items that wait one by one for their next attempt.
_MOST_SPANS = 200
# Beyond twice the item's timeout and this, a live worker that still holds a lease is stuck.
LEASE_SLACK_SECONDS = 60


@dataclass(slots=True)  # one per item: neither frozen nor a named tuple, which take twice as long to make
class ClaimedItem:
    ordinal: int
    custom_id: str
    history_id: int | None
    input: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to record the results of `items`; `attempt` is the number of the run they are in for."""

    id: int
    batch_id: UUID
    attempt: int
    losses: int
    started_at: datetime
    items: Sequence[ClaimedItem]
    probing: bool = False  # its circuit is open: this is to find out whether the other side is back
    waited: bool = False  # it came back from a wait for the other side


@dataclass(frozen=True, slots=True)
class Claim:
    """What may run now, and how many items of the batch were `taken` from its spans for it. Those that do not run were parked
    or had ended: they take no slot, so that something else may start, although no lease is left."""

    leases: Sequence[Lease]
    taken: int
    # Of a batch that begins; others are known, or to be looked up.
    assignment: Assignment | None = field(default=None, compare=False)
    in_full: bool = False  # there is something for a claim in a transaction
    # Another transaction has what it would have taken, or had it: look again in a moment.
    missed: bool = False


# Of a lease: never used twice. A claim does not wait for the disk, and with it a server that crashes forgets how far its
# sequence was: it would hand the numbers out again that workers still hold for claims that are gone, and the worker that got
# one of them would say of one lease what is true of the other. Milliseconds on top of the sequence, so that later is higher.
NEW_LEASE_ID = (
    "(extract(epoch FROM clock_timestamp()) * 1000)::bigint << 20 | (nextval('lease_id_seq') & 1048575)"
)


def _claiming(pick: str, missed: str = "false") -> str:
    """The statement that takes items of the batch `pick`, if its `way` is open: a row for each lease, or one without an id. If
    the batch begins, what a worker must know of it comes with them: once, so only if they are one range, as they are then.
    `missed`: whether it is another transaction's doing that there is no such batch. That there is none of its items is, too."""
    return f"""
WITH {choice.GIVEN}, {pick},
probe AS (
    UPDATE circuit c SET until = now() + make_interval(secs => c.pause_seconds * (0.8 + 0.4 * random())),
        pause_seconds = least(2 * c.pause_seconds, c.longest_seconds)
    FROM pick JOIN way ON way.is_open
    WHERE pick.probing AND c.tenant_id = pick.tenant_id AND c.name = pick.circuit AND c.until <= now()
    RETURNING c.name
),
candidate AS (
    SELECT w.* FROM pick JOIN way ON way.is_open CROSS JOIN LATERAL (
        SELECT * FROM span
        WHERE span.batch_id = pick.batch_id AND available_at <= now() AND (losses >= {spans.SUSPECT_LOSSES}) = $7
            AND EXISTS (SELECT FROM worker WHERE id = $1 AND NOT dead)
        ORDER BY available_at, id LIMIT least(pick.slots, {_MOST_SPANS}) FOR UPDATE
    ) w WHERE NOT pick.probing OR EXISTS (SELECT FROM probe)
),
running AS (SELECT *, sum(last - first + 1) OVER (ORDER BY available_at, id) AS upto FROM candidate),
room AS (
    SELECT batch_id, CASE WHEN slots < (SELECT max(upto) FROM running) THEN least(slots, $14) ELSE slots END AS slots FROM pick
),
taken AS (
    SELECT r.id, r.batch_id, r.first, r.last, r.attempts, r.losses, r.waiting,
        least(r.last, r.first + (room.slots - (r.upto - (r.last - r.first + 1)))::int - 1) AS taken_last
    FROM running r JOIN room USING (batch_id) WHERE r.upto - (r.last - r.first + 1) < room.slots
),
emptied AS (
    DELETE FROM span
    WHERE batch_id = (SELECT batch_id FROM pick) AND id = ANY (ARRAY(SELECT id FROM taken t WHERE t.taken_last = t.last))
),
cut AS (
    UPDATE span SET first = (SELECT taken_last + 1 FROM taken t WHERE t.id = span.id)
    WHERE batch_id = (SELECT batch_id FROM pick) AND id = ANY (ARRAY(SELECT id FROM taken t WHERE t.taken_last < t.last))
),
charge AS (SELECT sum(taken_last - first + 1) AS items FROM taken HAVING count(*) > 0),
charged_batch AS (
    UPDATE batch_schedule s SET vtime = greatest(s.vtime, pick.batches_started) + charge.items / s.weight
    FROM pick, charge WHERE s.batch_id = (SELECT batch_id FROM pick)
),
charged_tenant AS (
    UPDATE tenant_schedule t SET started = greatest(t.vtime, pick.tenants_started),
        vtime = greatest(t.vtime, pick.tenants_started) + charge.items,
        batches_started = greatest(t.batches_started, pick.vtime)
    FROM pick, charge WHERE t.tenant_id = (SELECT tenant_id FROM pick)
),
known AS (
    SELECT {", ".join(f"b.{name}" for name in assignments.COLUMNS)}
    FROM pick JOIN batch b ON b.id = pick.batch_id
    WHERE pick.vtime <= 0 AND (SELECT count(*) FROM taken) = 1
),
leased AS (
    INSERT INTO lease (id, batch_id, worker_id, first, last, remaining, attempt, losses, deadline_at)
    SELECT {NEW_LEASE_ID}, t.batch_id, $1, t.first, t.taken_last, t.taken_last - t.first + 1, t.attempts + 1, t.losses,
        now() + make_interval(secs => 2 * b.item_timeout_seconds + {LEASE_SLACK_SECONDS})
    FROM taken t JOIN batch b ON b.id = t.batch_id
    RETURNING id, batch_id, first, last, attempt, losses, started_at
)
SELECT l.*, pick.probing, pick.vtime <= 0 AS begins, way.told, way.is_open,
    (SELECT array_agg(first) FROM taken WHERE waiting) AS waited, known.*,
    ({missed} OR way.is_open IS TRUE AND l.id IS NULL)
        AND EXISTS (SELECT FROM worker WHERE id = $1 AND NOT dead) AS missed
FROM (SELECT) always LEFT JOIN (pick CROSS JOIN way) ON true LEFT JOIN known ON true LEFT JOIN leased l ON true
"""


_CLAIM = _claiming(f"{choice.fair('$7')}, {choice.PLAINLY}", choice.MISSED)
_BORN = _claiming(choice.OWN)

# A second statement, range by range: a plain join of ranges and items falls off a plan cliff at a million items.
_ITEMS = """
SELECT r.id AS lease_id, i.ordinal, i.custom_id, i.history_id, i.input
FROM unnest($2::bigint[], $3::int[], $4::int[]) AS r (id, first, last)
CROSS JOIN LATERAL (
    SELECT ordinal, custom_id, history_id, input FROM item
    WHERE batch_id = $1 AND ordinal >= r.first AND ordinal <= r.last ORDER BY ordinal LIMIT 100000
) i
"""
# Of one range, as they mostly are.
_RANGE = """
SELECT ordinal, custom_id, history_id, input FROM item
WHERE batch_id = $1 AND ordinal >= $2 AND ordinal <= $3 ORDER BY ordinal LIMIT 100000
"""
_ENDED = "SELECT ordinal FROM result WHERE batch_id = $1 AND ordinal = ANY ($2)"


# A literal as in span_suspect_idx, and from there to the schedules by their keys. What a worker has in hand itself has ended by
# the time it claims one.
_SUSPECTS = f"""
WITH {service_limits.room("lease.worker_id <> $1")}
SELECT EXISTS (
    SELECT FROM span w CROSS JOIN LATERAL (SELECT * FROM batch_schedule WHERE batch_id = w.batch_id OFFSET 0) s
    LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
    WHERE w.losses >= {spans.SUSPECT_LOSSES} AND w.available_at <= now() AND s.processor = ANY ($2) AND {choice.STARTABLE}
        AND (s.max_concurrency IS NULL OR s.max_concurrency > (
            SELECT coalesce(sum(l.remaining), 0) FROM lease l WHERE l.batch_id = s.batch_id AND l.worker_id <> $1
        ))
        AND NOT EXISTS (
            SELECT FROM room r
            WHERE r.slots = 0 AND (r.tenant_id = s.tenant_id OR r.kind = 'processor' AND r.name = s.processor)
        )
)
"""


async def suspects_wait(connection: Transaction, worker_id: int, processors: Collection[str]) -> bool:
    """Whether there is something for a claim of this worker with `suspect`, once it has nothing in hand."""
    found: bool = await connection.fetchval(_SUSPECTS, worker_id, list(processors))
    return found


async def claim(
    tx: Transaction,
    worker_id: int,
    free: Mapping[str, int],
    held: Sequence[tuple[UUID, str, int]] = (),
    capped: Sequence[tuple[UUID, int]] = (),
    *,
    fronts: Sequence[Front] = (),
    suspect: bool = False,
    plain: Collection[str] | None = None,
    part: int | None = None,
) -> Claim:
    """Lease items of one batch to this worker, at most as many as it has free slots for the batch's processor, and for the
    batch's circuit where `held` has a number for it: (tenant, circuit, slots); likewise of its tenant: `capped`, whose limits
    the caller holds (store/limited_claims.py).

    `part`: at most so many of a batch of which more wait than there are slots.

    `suspect`: only such as were there when so many workers died. No other claim takes those.

    `plain`: the processors that have no chats; and the caller has no transaction open. Then what can be claimed by one
    statement, is: BEGIN and COMMIT would be two round trips more. Of the rest the answer is `in_full`.

    Takes none when nothing may start, when another transaction has the only batch that could (`missed`), or when this worker was
    declared dead. Items whose chat is busy are parked (`store/histories.py`): taken, and in no lease.
    """
    only = None if plain is None else list(plain)
    given = [*_given(worker_id, free, held), suspect, only, *columns(capped, 2), *columns(fronts, 3), part]
    rows = await tx.fetch(_CLAIM, *given)
    if rows[0]["id"] is None:
        return Claim([], 0, in_full=rows[0]["is_open"] is False, missed=rows[0]["missed"])
    await _announce_begin(tx, rows[0])
    batch_id = rows[0]["batch_id"]
    items = await _items(tx, batch_id, [(row["id"], row["first"], row["last"]) for row in rows])
    leases = [_lease(row, items[row["id"]]) for row in rows]
    sizes = {row["id"]: row["last"] - row["first"] + 1 for row in rows}
    ready = await _settle(tx, await _drop_ended(tx, await _enter_chats(tx, leases)), sizes)
    if rows[0]["probing"] and not ready:
        await circuits.give_probe_back(tx, batch_id)
    return Claim(ready, sum(sizes.values()), _assignment(rows[0]))


async def born(
    tx: Transaction,
    worker_id: int,
    free: Mapping[str, int],
    batch_id: UUID,
    items: Sequence[ClaimedItem],
) -> Claim:
    """As `claim`, of a batch that this transaction has made: in its last statement, as it takes its turn among the tenants.

    `items`: the first of the batch, as many as there are slots if it has so many. None of them continues a chat, and none of
    the batch was refused. Takes none as well if anything else might start in their place.
    """
    given = [*_given(worker_id, free, ()), False, batch_id, *columns((), 2), *columns((), 3), None]
    [row] = await tx.fetch(_BORN, *given)
    if row["id"] is None:
        return Claim([], 0)
    await _announce_begin(tx, row)
    taken = items[row["first"] : row["last"] + 1]
    return Claim([_lease(row, taken)], len(taken), _assignment(row))


def _given(worker_id: int, free: Mapping[str, int], held: Sequence[tuple[UUID, str, int]]) -> list[Any]:
    """The arguments $1 to $6."""
    open_slots = {processor: slots for processor, slots in free.items() if slots > 0}
    return [worker_id, list(open_slots), list(open_slots.values()), *columns(held, 3)]


async def _announce_begin(tx: Transaction, row: Record) -> None:
    """A batch whose schedule was never charged has started nothing in this run."""
    if row["begins"] and row["told"]:
        await announcements.announce(tx, row["batch_id"], "started")


def _lease(row: Record, items: Sequence[ClaimedItem]) -> Lease:
    return Lease(
        row["id"],
        row["batch_id"],
        row["attempt"],
        row["losses"],
        row["started_at"],
        items,
        row["probing"],
        row["first"] in (row["waited"] or ()),
    )


def _assignment(row: Record) -> Assignment | None:
    if row["processor"] is None:
        return None
    return Assignment(row["batch_id"], *(row[name] for name in assignments.COLUMNS))


async def _enter_chats(tx: Transaction, leases: Sequence[Lease]) -> Sequence[Lease]:
    """Keep the items that have their chat, or need none; park the others."""
    seats = {
        (lease.id, item.ordinal): histories.Seat(item.history_id, lease.batch_id, item.ordinal)
        for lease in leases
        for item in lease.items
        if item.history_id is not None
    }
    if not seats:
        return leases
    entered = await histories.enter(tx, seats.values())
    out = {place for place, seat in seats.items() if seat not in entered}
    by_id = {lease.id: lease for lease in leases}
    await histories.park(tx, [(seats[p], by_id[p[0]].attempt - 1, by_id[p[0]].losses) for p in sorted(out)])
    return [
        replace(le, items=[item for item in le.items if (le.id, item.ordinal) not in out]) for le in leases
    ]


async def _items(
    tx: Transaction, batch_id: UUID, ranges: Sequence[tuple[int, int, int]]
) -> dict[int, list[ClaimedItem]]:
    if len(ranges) == 1:
        [(lease_id, first, last)] = ranges
        rows = await tx.fetch(_RANGE, batch_id, first, last)
        return {lease_id: [ClaimedItem(*row) for row in rows]}
    ids, firsts, lasts = (list(column) for column in zip(*ranges, strict=True))
    found: dict[int, list[ClaimedItem]] = {lease_id: [] for lease_id in ids}
    rows = await tx.fetch(_ITEMS, batch_id, ids, firsts, lasts)
    for lease_id, ordinal, custom_id, history_id, text in rows:
        found[lease_id].append(ClaimedItem(ordinal, custom_id, history_id, text))
    return found


async def _drop_ended(tx: Transaction, leases: Sequence[Lease]) -> Sequence[Lease]:
    """After a loss, a worker that was thought dead may have recorded some of the items. Looked up once they have their
    chats: whoever records one from now on waits for us, and gives its chat up after us."""
    suspects = [item.ordinal for lease in leases if lease.losses for item in lease.items]
    if not suspects:
        return leases
    batch_id = leases[0].batch_id
    ended = {row["ordinal"] for row in await tx.fetch(_ENDED, batch_id, suspects)}
    items = [item for lease in leases for item in lease.items if item.ordinal in ended]
    await histories.leave(
        tx,
        [
            histories.Seat(item.history_id, batch_id, item.ordinal)
            for item in items
            if item.history_id is not None
        ],
    )
    return [replace(le, items=[item for item in le.items if item.ordinal not in ended]) for le in leases]


async def _settle(tx: Transaction, leases: Sequence[Lease], sizes: Mapping[int, int]) -> list[Lease]:
    """Bring `remaining` down to what is really to be run; a lease with nothing left ends here."""
    changed = {lease.id: len(lease.items) for lease in leases if len(lease.items) != sizes[lease.id]}
    if changed:
        await set_remaining(tx, changed)
    return [lease for lease in leases if lease.items]


# Rows are named by arrays: to a join these tables look as if they had next to no rows, and it reads them whole, with all that
# were deleted since the oldest snapshot that anybody holds (tests/engine/test_held_snapshot.py).
_SET_REMAINING = """
WITH given AS (SELECT * FROM unnest($1::bigint[], $2::int[]) AS given (id, remaining)),
ended AS (DELETE FROM lease WHERE id = ANY (ARRAY(SELECT id FROM given WHERE remaining = 0)))
UPDATE lease SET remaining = (SELECT given.remaining FROM given WHERE given.id = lease.id)
WHERE id = ANY (ARRAY(SELECT id FROM given WHERE remaining > 0))
"""


async def set_remaining(tx: Transaction, remaining: Mapping[int, int]) -> None:
    """Set how many items of each lease are without a verdict: a number, not a difference, so that a repeat is harmless."""
    await tx.execute(_SET_REMAINING, list(remaining), list(remaining.values()))
