"""The audit finds each kind of damage, and nothing in a healthy database."""

import pytest

from factories import (
    claim,
    drain,
    failure,
    in_chats,
    make_batch,
    make_worker,
    record,
    retry,
    sql,
    success,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.store import audit, retries, transitions
from gristmill.store.recording import Flush

BATCH = "(SELECT id FROM batch WHERE name = '{}')"

DAMAGES = {
    "counters equal the results": [
        "UPDATE batch_count SET success = success + 1 WHERE batch_id = live",
        "UPDATE batch_count SET cancelled = 1 WHERE batch_id = live",
        "DELETE FROM result WHERE batch_id = ended AND ordinal = 0",
    ],
    "the log has each result of its batch once, and no place twice": [
        "DELETE FROM result_log WHERE batch_id = ended",
        "UPDATE result_log SET ordinals[1] = 19 WHERE batch_id = live",
        "UPDATE result_log SET at = now() WHERE batch_id = again AND run = 2",
        "UPDATE result_log SET ordinals = ordinals || 5 WHERE batch_id = ended",
    ],
    "there are as many items as the total": ["DELETE FROM item WHERE batch_id = ended AND ordinal = 0"],
    "a batch is terminal exactly when its counts are complete": [
        "UPDATE batch SET status = 'in_progress', completed_at = NULL, expires_at = NULL WHERE id = ended",
        "UPDATE batch SET status = 'completed', completed_at = now(), expires_at = now() WHERE id = live",
    ],
    "a terminal batch has exactly one closing event of its run, a live one none": [
        "DELETE FROM event WHERE batch_id = ended",
        "UPDATE event SET run = 2 WHERE batch_id = ended",
        "UPDATE event SET batch_id = live WHERE batch_id = ended",
        """INSERT INTO event (id, batch_id, tenant_id, type, run, body)
        SELECT 'evt_2', batch_id, tenant_id, 'failed', run, body FROM event WHERE batch_id = ended""",
    ],
    "every run before the present one has exactly one closing event": [
        "DELETE FROM event WHERE run = 1 AND batch_id = again",
        "UPDATE batch SET run = 2 WHERE id = live",
    ],
    "attempts are of runs that have begun": [
        "UPDATE item_attempt SET run = 3 WHERE batch_id = again",
        "UPDATE item_attempt SET run = 0 WHERE batch_id = again",
    ],
    "leases are of the present run": [
        "UPDATE batch SET first_lease_id = 9000000000000000000 WHERE id = live"
    ],
    "a batch may start items exactly while it is live, has its items, and nothing ends it": [
        "DELETE FROM batch_schedule WHERE batch_id = live",
        "UPDATE batch_schedule SET paused = true WHERE batch_id = live",
        "UPDATE batch_schedule SET batch_id = ended WHERE batch_id = live",
    ],
    "a batch that has ended is beyond no limit": [
        "UPDATE batch_count SET exceeded = 'budget' WHERE batch_id = ended"
    ],
    "claims look at the limits of a batch that has some": [
        "UPDATE batch_count SET max_tokens = 9, budget_action = 'pause' WHERE batch_id = live",
        "UPDATE batch_schedule SET limited = true WHERE batch_id = live",
    ],
    "a batch that may start items has a tenant whose turn can come": ["DELETE FROM tenant_schedule"],
    "every item of a live batch without a result is in a span or a lease": [
        "DELETE FROM span WHERE batch_id = live AND last = 19",
        "DELETE FROM lease WHERE batch_id = live",
    ],
    "leases have all items to come that are in no span": [
        "DELETE FROM span WHERE batch_id = live AND first = 2",  # the lease it came from still covers it
        "UPDATE lease SET remaining = 1 WHERE batch_id = live",
    ],
    "no item waits in two spans": [
        "INSERT INTO span (batch_id, first, last) VALUES (live, 9, 9)",
        "UPDATE span SET first = 2 WHERE batch_id = live AND last = 19",
    ],
    "a chat is held only by an item without a result": [
        "INSERT INTO history_lock VALUES (99, ended, 1)",
        "UPDATE history_lock SET batch_id = ended, ordinal = 2 WHERE history_id = 7",
    ],
    "an item that waits for a chat waits for another that has it": ["DELETE FROM history_lock"],
}


async def healthy(database: Database) -> None:
    """One batch of each kind: ended; live with results, retries, leases and a parked item; in its second run; paused;
    cancelling."""
    worker = await make_worker(database)
    await make_batch(database, 4, name="ended")
    await drain(database, worker)
    again = await make_batch(database, 3, name="again")
    [lease] = await claim(database, worker, 3)
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, n) for n in range(3)]))
    await turn(database, retries.retry, again)
    [lease] = await claim(database, worker, 2)
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 0), failure(lease, 1)]))
    await turn(database, transitions.pause, again)
    await make_batch(database, in_chats(None, None, None, 7, 7, *[None] * 15), name="live")
    [lease] = await claim(database, worker, 8)
    flush = Flush({lease.id: 4}, [success(lease, 0), failure(lease, 1)], [retry(lease, 2, 60)])
    await record(database, worker, flush)
    await make_batch(database, 3, start_paused=True, name="paused")
    await turn(database, transitions.cancel, await make_batch(database, 3, name="cancelling"))


async def test_nothing_is_found_in_a_healthy_database(database: Database) -> None:
    await healthy(database)

    assert await violations(database) == []
    assert await sql(database, "SELECT status FROM batch ORDER BY status") == [
        "cancelling",
        "completed",
        "in_progress",
        "paused",
        "paused",
    ]
    assert await sql(database, "SELECT first FROM span WHERE available_at = 'infinity'") == [4]


def test_every_rule_is_damaged_here() -> None:
    assert set(DAMAGES) == set(audit.RULES)


@pytest.mark.parametrize(
    ("rule", "damage"), [(rule, damage) for rule, damages in DAMAGES.items() for damage in damages]
)
async def test_damage_is_found(database: Database, rule: str, damage: str) -> None:
    await healthy(database)
    for name in ("ended", "live", "again"):
        damage = damage.replace(f" {name}", " " + BATCH.format(name)).replace(
            f"({name},", f"({BATCH.format(name)},"
        )

    await sql(database, damage)

    assert rule in {violation.rule for violation in await violations(database)}


async def test_a_violation_names_its_batch(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    await sql(database, "DELETE FROM span")

    found = await violations(database)

    assert {violation.batch_id for violation in found} == {batch_id}
