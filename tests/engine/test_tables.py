"""What Postgres itself refuses, whatever the code does."""

from uuid import UUID

import asyncpg
import pytest

from factories import claim, drain, make_batch, make_worker, sql, violations
from gristmill.db import Database
from gristmill.store.new_batches import NewItem, NewWebhook

RESULT = "INSERT INTO result (batch_id, ordinal, status, code, attempt) SELECT id, {} FROM batch"
CHECKED = {
    "batch_total_check": ["UPDATE batch SET total = 0", "UPDATE batch SET total = 1000001"],
    "batch_status_check": ["UPDATE batch SET status = 'done'"],
    "batch_ending_check": ["UPDATE batch SET ending = 'boredom'"],
    "batch_completed_at_check": [
        "UPDATE batch SET status = 'completed'",
        "UPDATE batch SET status = 'failed'",
        "UPDATE batch SET completed_at = now()",
    ],
    "batch_cancelled_at_check": [
        "UPDATE batch SET status = 'cancelled', ending = 'cancel'",
        "UPDATE batch SET cancelled_at = now()",
    ],
    "batch_cancel_check": [
        "UPDATE batch SET status = 'cancelling'",
        "UPDATE batch SET status = 'cancelling', ending = 'deadline'",
        "UPDATE batch SET status = 'cancelled', cancelled_at = now(), ending = 'deadline'",
    ],
    "batch_paused_by_check": [
        "UPDATE batch SET paused_by = 'budget'",
        "UPDATE batch SET paused_by = 'cancel', status = 'paused'",
    ],
    "batch_count_failure_ratio_check": [
        "UPDATE batch_count SET failure_ratio = 1.1, failure_minimum = 1, failure_action = 'fail'",
        "UPDATE batch_count SET failure_ratio = 1, failure_minimum = 0, failure_action = 'fail'",
    ],
    "batch_count_failure_threshold_check": ["UPDATE batch_count SET failure_ratio = 0.5"],
    "batch_count_budget_check": ["UPDATE batch_count SET max_tokens = 1"],
    "batch_count_action_check": ["UPDATE batch_count SET max_tokens = 1, budget_action = 'stop'"],
    "batch_count_exceeded_check": ["UPDATE batch_count SET exceeded = 'deadline'"],
    "batch_priority_check": ["UPDATE batch SET priority = 101", "UPDATE batch SET priority = -101"],
    "batch_count_total_check": [
        "UPDATE batch_count SET success = 4",
        "UPDATE batch_count SET success = 2, failed = 2",
    ],
    "batch_count_failed_check": [
        "UPDATE batch_count SET cancelled = 1",
        "UPDATE batch_count SET failed = 1, cancelled = 1, expired = 1",
    ],
    "batch_count_kept_check": ["UPDATE batch_count SET kept = 1"],
    "result_status_check": [RESULT.format("0, 0, NULL, 1"), RESULT.format("0, 3, NULL, 1")],
    "result_code_check": [RESULT.format("0, 1, 500, 1"), RESULT.format("0, 2, NULL, 1")],
    "span_range_check": ["UPDATE span SET first = -1", "UPDATE span SET first = 3"],
    "span_history_check": ["UPDATE span SET history_id = 7"],
    "lease_remaining_check": ["UPDATE lease SET remaining = -1", "UPDATE lease SET remaining = 2"],
    "item_checkpoint_done_check": [
        "INSERT INTO item_checkpoint (batch_id, ordinal, stage, done) SELECT id, 0, 'a', -1 FROM batch",
        "INSERT INTO item_checkpoint (batch_id, ordinal, stage, done, total) SELECT id, 0, 'a', 3, 2 FROM batch",
    ],
    "delivery_status_check": ["UPDATE delivery SET status = 'lost'"],
    "delivery_delivered_at_check": [
        "UPDATE delivery SET status = 'delivered'",
        "UPDATE delivery SET delivered_at = now()",
    ],
}
UNIQUE = {
    "batch_pkey": "INSERT INTO batch SELECT * FROM batch",
    "batch_count_pkey": "INSERT INTO batch_count SELECT * FROM batch_count",
    "batch_schedule_pkey": "INSERT INTO batch_schedule SELECT * FROM batch_schedule",
    "tenant_schedule_pkey": "INSERT INTO tenant_schedule SELECT * FROM tenant_schedule",
    "pkey": "INSERT INTO item SELECT * FROM item WHERE ordinal = 1",
    "custom_id": """
        INSERT INTO item (batch_id, ordinal, custom_id, input) SELECT batch_id, 9, custom_id, '{}' FROM item WHERE ordinal = 1
    """,
    "ordinal_pkey": "INSERT INTO result SELECT * FROM result",
    "event_pkey": "INSERT INTO event SELECT * FROM event",
    "event_batch_id_type_run_occurrence_idx": """
        INSERT INTO event (id, batch_id, tenant_id, type, run, body)
        SELECT 'evt_', batch_id, tenant_id, type, run, body FROM event
    """,
    "delivery_pkey": "INSERT INTO delivery SELECT * FROM delivery",
    "history_lock_pkey": "INSERT INTO history_lock VALUES (7, '00000000-0000-7000-8000-000000000001', 1)",
    "tenant_name_key": "INSERT INTO tenant VALUES (gen_random_uuid(), 'a')",
}


@pytest.mark.parametrize(
    ("constraint", "statement"), [(name, one) for name, several in CHECKED.items() for one in several]
)
async def test_a_row_that_makes_no_sense_is_refused(
    database: Database, constraint: str, statement: str
) -> None:
    await make_batch(database, 1, webhook=NewWebhook("https://a.example/", ("completed",)))
    worker = await make_worker(database)
    if constraint.startswith("delivery"):
        await drain(database, worker)
    else:
        await make_batch(database, 3)
        await claim(database, worker, 1)

    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await sql(database, statement)

    assert refusal.value.constraint_name == constraint
    assert await violations(database) == []


@pytest.mark.parametrize(("constraint", "statement"), UNIQUE.items())
async def test_what_there_is_once_cannot_be_there_twice(
    database: Database, constraint: str, statement: str
) -> None:
    await make_batch(database, 2, webhook=NewWebhook("https://a.example/", ("completed",)))
    await drain(database, await make_worker(database))
    await make_batch(database, 2)
    await sql(database, "INSERT INTO tenant VALUES (gen_random_uuid(), 'a')")
    await sql(database, "INSERT INTO history_lock VALUES (7, gen_random_uuid(), 0)")

    with pytest.raises(asyncpg.UniqueViolationError) as refusal:
        await sql(database, statement)

    name = refusal.value.constraint_name or ""  # a partition has its own names
    assert name == constraint or "_w2" in name
    assert constraint != "custom_id" or "custom_id" in name


async def test_a_batch_with_a_custom_id_given_twice_is_refused_whole(database: Database) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await make_batch(database, [NewItem("a", "{}"), NewItem("A", "{}"), NewItem("a", "{}")])

    for table in ("batch", "batch_count", "batch_schedule", "span", "item"):
        assert await sql(database, f"SELECT count(*) FROM {table}") == [0]


async def test_the_same_custom_id_may_be_in_two_batches(database: Database) -> None:
    first, second = [await make_batch(database, [NewItem("a", "{}")]) for _ in range(2)]
    assert isinstance(first, UUID)
    assert await sql(database, "SELECT batch_id FROM item ORDER BY batch_id") == [first, second]


async def test_a_batch_without_items_is_refused(database: Database) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await make_batch(database, [])
