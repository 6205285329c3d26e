"""Which batch a claim takes from: SQL for the fair choice among all (`store/schedules.py`), and for one that is being made."""

from gristmill.store import spans

# Beside so many batches, a look at who else waits would take too long for what it may bring.
_MOST_OTHERS = 100
# Of the schedule row `s` of a batch and that of its circuit `c`, if there is one: whether the batch may start something.
# IS TRUE: so that nobody looks for it in the index of deadlines, which has all that has gone of all tenants.
STARTABLE = """
    NOT s.paused AND (s.deadline_at > now()) IS TRUE AND (c.until IS NULL OR c.until <= now())
    AND (NOT s.limited OR NOT EXISTS (
        SELECT FROM batch_count k WHERE k.batch_id = s.batch_id AND k.exceeded IS NOT NULL
    ))
"""
GIVEN = """
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
    for it. Where that cannot be had, the next tenant is looked at. `MISSED` says, where there is no `pick`, why."""
    picking = _picking(suspect, more, also, where, "FOR UPDATE OF s SKIP LOCKED")
    return f"pick AS ({picking}), startable AS ({_picking(suspect)})"


# Nothing was picked although something could start: another transaction has it, mostly a claim, or had it when this one came to
# it. A batch that has begun meanwhile is passed over, too: its virtual time is no longer in the range it was found in.
MISSED = "NOT EXISTS (SELECT FROM pick) AND EXISTS (SELECT FROM startable)"


def _picking(suspect: str, more: str = "", also: str = "", where: str = "true", lock: str = "") -> str:
    return f"""
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
        WHERE s.tenant_id = t.tenant_id AND s.vtime BETWEEN t.low AND t.high AND {STARTABLE}
            AND (s.max_concurrency IS NULL OR s.max_concurrency > running.items)
            AND (held.slots IS NULL OR held.slots > 0) AND (capped.slots IS NULL OR capped.slots > 0)
            AND (
                SELECT true FROM span w
                WHERE w.batch_id = s.batch_id AND w.available_at <= now()
                    AND (w.losses >= {spans.SUSPECT_LOSSES}) = {suspect} LIMIT 1
            )
        ORDER BY s.vtime, s.batch_id LIMIT 1 {lock}
    ) next {also}
    WHERE (next.max_concurrency IS NULL OR next.vtime = (SELECT vtime FROM batch_schedule o WHERE o.batch_id = next.batch_id))
        AND {where}
    ORDER BY t.vtime, t.low LIMIT 1
"""


# Of whoever is picked. $8 NULL: it is taken. Else only what the statement can do as a transaction of its own, one that does not
# wait for the disk: of processors that have no chats ($8), and nothing that has to be announced or probed.
PLAINLY = """
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
OWN = f"""
pick AS (
    SELECT own.*, t.batches_started, (SELECT max(started) FROM tenant_schedule) AS tenants_started
    FROM (
        SELECT s.batch_id, s.tenant_id, s.weight, s.vtime, s.max_concurrency, s.circuit, false AS probing,
            least(free.slots, s.max_concurrency, held.slots)::int AS slots
        FROM batch_schedule s
        JOIN free ON free.processor = s.processor
        LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
        LEFT JOIN held ON held.tenant_id = s.tenant_id AND held.circuit = s.circuit
        WHERE s.batch_id = $8 AND {STARTABLE} AND c.until IS NULL AND (held.slots IS NULL OR held.slots > 0)
            AND (SELECT count(*) FROM (SELECT FROM batch_schedule LIMIT {_MOST_OTHERS}) few) < {_MOST_OTHERS}
            AND NOT EXISTS (
                SELECT FROM batch_schedule s
                JOIN free ON free.processor = s.processor
                LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
                WHERE s.batch_id <> $8 AND {STARTABLE}
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
