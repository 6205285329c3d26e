"""Claiming: the front of a waiting span becomes a lease of one worker; and the ways back from a lease to a span.

No item row is ever touched by this. What is claimed comes from one batch, chosen fairly (`store/schedules.py`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.store import announcements, assignments, circuits, histories, service_limits
from gristmill.store.assignments import Assignment
from gristmill.store.columns import columns
from gristmill.store.schedules import Front

# A claim cuts at most so many spans: enough for a full claim of items that wait one by one for their next attempt.
_MOST_SPANS = 200
# An item that was there when so many workers died is suspected, and runs alone (worker/isolation.py). Sooner if it may not
# be lost so often (store/leases.py). Two are chance: of what one of 50 kills in 100,000 items cuts off, another cuts off 5 %
# again, and these would wait for each other (promise 2 of docs/reliability.md).
SUSPECT_LOSSES = 3
# Beside so many batches, a look at who else waits would take too long for what it may bring.
_MOST_OTHERS = 100
# A delay that is long over: spans are taken in the order of their times, and what a lost worker had begun must not wait
# behind all of a large batch that has not begun yet.
FIRST_SECONDS = -1e9
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


# Of a lease: never used twice. A claim does not wait for the disk, and with it a server that crashes forgets how far its
# sequence was: it would hand the numbers out again that workers still hold for claims that are gone, and the worker that got
# one of them would say of one lease what is true of the other. Milliseconds on top of the sequence, so that later is higher.
NEW_LEASE_ID = (
    "(extract(epoch FROM clock_timestamp()) * 1000)::bigint << 20 | (nextval('lease_id_seq') & 1048575)"
)

# Of the schedule row `s` of a batch and that of its circuit `c`, if there is one: whether the batch may start something.
# IS TRUE: so that nobody looks for it in the index of deadlines, which has all that has gone of all tenants.
_STARTABLE = """
    NOT s.paused AND (s.deadline_at > now()) IS TRUE AND (c.until IS NULL OR c.until <= now())
    AND (NOT s.limited OR NOT EXISTS (
        SELECT FROM batch_count k WHERE k.batch_id = s.batch_id AND k.exceeded IS NOT NULL
    ))
"""
_GIVEN = """
free AS (SELECT *, NULL::uuid AS limit_id FROM unnest($2::text[], $3::int[]) AS free (processor, slots)),
held AS (SELECT * FROM unnest($4::uuid[], $5::text[], $6::int[]) AS held (tenant_id, circuit, slots)),
capped AS (SELECT *, NULL::uuid AS limit_id FROM unnest($9::uuid[], $10::int[]) AS capped (tenant_id, slots)),
front AS (SELECT * FROM unnest($11::uuid[], $12::float8[], $13::float8[]) AS front (tenant_id, fresh, begun))
"""


# The fair choice: the first tenant in order of virtual time that has a startable batch, and its first such batch.
# Its schedule row stays locked until the claim commits: that serialises claims of one batch, and makes pause and cancel exact.
# Tenants are sorted before the batches are looked at: else a batch of every tenant is locked, and the others find nothing.
# `next.vtime` is as of the lock, the one it is compared with as of the statement's beginning: if another claim of the batch
# committed in between, `running` does not count its items, and a batch with a limit is left to the next claim.
# A batch whose circuit is open is passed over until the next probe is due, and then gives one item. The circuit's row says to
# whom of several claims: the others take nothing.
# Batches of a tenant that have not begun come before the others, so they are two ranges of the index; each is read from its
# front on (`schedules.Front`), as far as that is known.
def fair(suspect: str, more: str = "", also: str = "", where: str = "true") -> str:
    """`suspect`: its parameter; `more`: columns of what is to be known of the choice; `also` and `where`: what else is needed
    for it. Where that cannot be had, the next tenant is looked at."""
    return f"""
pick AS (
    SELECT next.*, t.batches_started, t.tenants_started{more}
    FROM (
        SELECT ts.*, max(ts.started) OVER () AS tenants_started, part.low, part.high
        FROM tenant_schedule ts LEFT JOIN front f ON f.tenant_id = ts.tenant_id AND f.begun <= ts.batches_started
        CROSS JOIN LATERAL (
            VALUES (coalesce(f.fresh, '-Infinity'), 0::float8), (coalesce(f.begun, 0), 'Infinity')
        ) AS part (low, high)
        ORDER BY ts.vtime, part.low OFFSET 0
    ) t CROSS JOIN LATERAL (
        SELECT s.batch_id, s.tenant_id, s.weight, s.vtime, s.max_concurrency, s.circuit, c.until IS NOT NULL AS probing,
            free.limit_id AS processor_limit, capped.limit_id AS tenant_limit,
            least(free.slots, coalesce(s.max_concurrency - running.items, free.slots),
                held.slots, capped.slots, CASE WHEN c.until IS NOT NULL THEN 1 END)::int AS slots
        FROM batch_schedule s
        JOIN free ON free.processor = s.processor
        LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
        LEFT JOIN held ON held.tenant_id = s.tenant_id AND held.circuit = s.circuit
        LEFT JOIN capped ON capped.tenant_id = s.tenant_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN s.max_concurrency IS NOT NULL THEN (
                SELECT coalesce(sum(l.remaining), 0) FROM lease l WHERE l.batch_id = s.batch_id
            ) END AS items
        ) running
        WHERE s.tenant_id = t.tenant_id AND s.vtime BETWEEN t.low AND t.high AND {_STARTABLE}
            AND (s.max_concurrency IS NULL OR s.max_concurrency > running.items)
            AND (held.slots IS NULL OR held.slots > 0) AND (capped.slots IS NULL OR capped.slots > 0)
            AND (
                SELECT true FROM span w
                WHERE w.batch_id = s.batch_id AND w.available_at <= now() AND (w.losses >= {SUSPECT_LOSSES}) = {suspect} LIMIT 1
            )
        ORDER BY s.vtime, s.batch_id LIMIT 1 FOR UPDATE OF s SKIP LOCKED
    ) next {also}
    WHERE (next.max_concurrency IS NULL OR next.vtime = (SELECT vtime FROM batch_schedule o WHERE o.batch_id = next.batch_id))
        AND {where}
    ORDER BY t.vtime, t.low LIMIT 1
)
"""


# Of whoever is picked. $8 NULL: it is taken. Else only what the statement can do as a transaction of its own, one that does not
# wait for the disk: of processors that have no chats ($8), and nothing that has to be announced or probed.
_PLAINLY = """
way AS (
    SELECT b.told, $8::text[] IS NULL OR (
        set_config('synchronous_commit', 'off', true) IS NOT NULL
        AND b.processor = ANY ($8) AND NOT pick.probing AND NOT (b.told AND pick.vtime <= 0)
    ) AS is_open
    FROM pick JOIN (
        SELECT id, processor, webhook_url IS NOT NULL OR webhooks IS NOT NULL AS told FROM batch
    ) b ON b.id = pick.batch_id
)
"""
# A batch that is being made ($8), by the transaction that makes it. Only if nobody else waits for a slot, as far as a look at a
# few can tell: else its first items take their turn. Its commit waits for the disk, and until then its tenant's row is locked:
# one of his batches at a time is born so, the others do not wait for that. The worker's row is shared: whether a commit that
# was not acknowledged is still to come can be waited for (`leases.disown`), and heartbeats go on.
_OWN = f"""
pick AS (
    SELECT own.*, t.batches_started, (SELECT max(started) FROM tenant_schedule) AS tenants_started
    FROM (
        SELECT s.batch_id, s.tenant_id, s.weight, s.vtime, s.max_concurrency, s.circuit, false AS probing,
            least(free.slots, s.max_concurrency, held.slots)::int AS slots
        FROM batch_schedule s
        JOIN free ON free.processor = s.processor
        LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
        LEFT JOIN held ON held.tenant_id = s.tenant_id AND held.circuit = s.circuit
        WHERE s.batch_id = $8 AND {_STARTABLE} AND c.until IS NULL AND (held.slots IS NULL OR held.slots > 0)
            AND (SELECT count(*) FROM (SELECT FROM batch_schedule LIMIT {_MOST_OTHERS}) few) < {_MOST_OTHERS}
            AND NOT EXISTS (
                SELECT FROM batch_schedule s
                JOIN free ON free.processor = s.processor
                LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
                WHERE s.batch_id <> $8 AND {_STARTABLE}
                    AND (SELECT true FROM span w WHERE w.batch_id = s.batch_id AND w.available_at <= now() LIMIT 1)
                    AND (s.max_concurrency IS NULL OR s.max_concurrency > (
                        SELECT coalesce(sum(l.remaining), 0) FROM lease l WHERE l.batch_id = s.batch_id
                    ))
            )
    ) own
    CROSS JOIN LATERAL (
        SELECT FROM worker WHERE own.slots > 0 AND id = $1 AND NOT dead FOR KEY SHARE
    ) me
    CROSS JOIN LATERAL (
        SELECT batches_started FROM tenant_schedule WHERE tenant_id = own.tenant_id FOR NO KEY UPDATE SKIP LOCKED
    ) t
),
way AS (
    SELECT webhook_url IS NOT NULL OR webhooks IS NOT NULL AS told, true AS is_open FROM batch WHERE id = $8
)
"""


def _claiming(pick: str) -> str:
    """The statement that takes items of the batch `pick`, if its `way` is open: a row for each lease, or one without an id. If
    the batch begins, what a worker must know of it comes with them: once, so only if they are one range, as they are then."""
    return f"""
WITH {_GIVEN}, {pick},
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
        WHERE span.batch_id = pick.batch_id AND available_at <= now() AND (losses >= {SUSPECT_LOSSES}) = $7
            AND EXISTS (SELECT FROM worker WHERE id = $1 AND NOT dead)
        ORDER BY available_at, id LIMIT least(pick.slots, {_MOST_SPANS}) FOR UPDATE
    ) w WHERE NOT pick.probing OR EXISTS (SELECT FROM probe)
),
running AS (SELECT *, sum(last - first + 1) OVER (ORDER BY available_at, id) AS upto FROM candidate),
taken AS (
    SELECT r.id, r.batch_id, r.first, r.last, r.attempts, r.losses, r.waiting,
        least(r.last, r.first + (pick.slots - (r.upto - (r.last - r.first + 1)))::int - 1) AS taken_last
    FROM running r JOIN pick USING (batch_id) WHERE r.upto - (r.last - r.first + 1) < pick.slots
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
    (SELECT array_agg(first) FROM taken WHERE waiting) AS waited, known.*
FROM pick CROSS JOIN way LEFT JOIN known ON true LEFT JOIN leased l ON true
"""


_CLAIM = _claiming(f"{fair('$7')}, {_PLAINLY}")
_BORN = _claiming(_OWN)

# A second statement, range by range: a plain join of ranges and items falls off a plan cliff at a million items.
_ITEMS = """
SELECT r.id AS lease_id, i.ordinal, i.custom_id, i.history_id, i.input
FROM unnest($2::bigint[], $3::int[], $4::int[]) AS r (id, first, last)
CROSS JOIN LATERAL (
    SELECT ordinal, custom_id, history_id, input FROM item
    WHERE batch_id = $1 AND ordinal >= r.first AND ordinal <= r.last ORDER BY ordinal LIMIT 100000
) i
"""
_ENDED = "SELECT ordinal FROM result WHERE batch_id = $1 AND ordinal = ANY ($2)"


# A literal as in span_suspect_idx, and from there to the schedules by their keys. What a worker has in hand itself has ended by
# the time it claims one.
_SUSPECTS = f"""
WITH {service_limits.room("lease.worker_id <> $1")}
SELECT EXISTS (
    SELECT FROM span w CROSS JOIN LATERAL (SELECT * FROM batch_schedule WHERE batch_id = w.batch_id OFFSET 0) s
    LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
    WHERE w.losses >= {SUSPECT_LOSSES} AND w.available_at <= now() AND s.processor = ANY ($2) AND {_STARTABLE}
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
) -> Claim:
    """Lease items of one batch to this worker, at most as many as it has free slots for the batch's processor, and for the
    batch's circuit where `held` has a number for it: (tenant, circuit, slots); likewise of its tenant: `capped`, whose limits
    the caller holds (store/limited_claims.py).

    `suspect`: only such as were there when so many workers died. No other claim takes those.

    `plain`: the processors that have no chats; and the caller has no transaction open. Then what can be claimed by one
    statement, is: BEGIN and COMMIT would be two round trips more. Of the rest the answer is `in_full`.

    Takes none when nothing may start, when another claim holds the only batch that could, or when this worker was
    declared dead. Items whose chat is busy are parked (`store/histories.py`): taken, and in no lease.
    """
    only = None if plain is None else list(plain)
    given = [*_given(worker_id, free, held), suspect, only, *columns(capped, 2), *columns(fronts, 3)]
    rows = await tx.fetch(_CLAIM, *given)
    if not rows or rows[0]["id"] is None:
        return Claim([], 0, in_full=bool(rows) and not rows[0]["is_open"])
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
    given = [*_given(worker_id, free, ()), False, batch_id, *columns((), 2), *columns((), 3)]
    row = await tx.fetchrow(_BORN, *given)
    if row is None or row["id"] is None:
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """Items of one lease that go back to wait: consecutive ordinals with the same history."""

    batch_id: UUID
    first: int
    last: int
    attempts: int  # used up
    losses: int
    delay_seconds: float = 0.0
    upstream_busy: bool = False  # why it waits: 429, no capacity, upstream down; else for its next attempt


def joined(waiting: Iterable[Waiting]) -> list[Waiting]:
    """What waits for the other side becomes one range again where neighbours wait alike: an outage leaves a batch as it was.
    Those that were lost more than once stay apart (store/leases.py)."""
    ranges: list[Waiting] = []
    for one in sorted(waiting, key=_place):
        last = ranges[-1] if ranges else one
        if one.upstream_busy and one.losses < 2 and one == replace(last, first=last.last + 1, last=one.last):
            ranges[-1] = replace(last, last=one.last)
        else:
            ranges.append(one)
    return ranges


async def put_back(tx: Transaction, waiting: Sequence[Waiting]) -> None:
    """The items wait again, to be claimed after their delay."""
    if not waiting:
        return
    rows = [
        (w.batch_id, w.first, w.last, w.attempts, w.losses, w.delay_seconds, w.upstream_busy)
        for w in sorted(waiting, key=_place)
    ]
    await tx.execute(
        """
        INSERT INTO span (batch_id, first, last, attempts, losses, available_at, waiting)
        SELECT b, f, l, a, s, now() + make_interval(secs => d), w
        FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::float8[], $7::bool[])
            AS given (b, f, l, a, s, d, w)
        """,
        *columns(rows, 7),
    )


def _place(waiting: Waiting) -> tuple[UUID, int]:
    return waiting.batch_id, waiting.first


def runs(ordinals: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ordinals as ranges of consecutive ones, first and last inclusive."""
    ranges: list[tuple[int, int]] = []
    for ordinal in ordinals:
        if ranges and ranges[-1][1] == ordinal - 1:
            ranges[-1] = (ranges[-1][0], ordinal)
        else:
            ranges.append((ordinal, ordinal))
    return ranges
