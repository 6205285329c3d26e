"""The counters of a batch, and the speed they tell."""

from datetime import timedelta

import pytest

from factories import TENANT, all_of, claim, failure, get, make_batch, make_worker, record, sql, success
from gristmill.db import Database
from gristmill.store import batches
from gristmill.store.batches import BatchFilters
from gristmill.store.recording import Flush


async def age(database: Database, **since: float) -> None:
    """The batch's first and last result are that much older than they were."""
    await sql(
        database,
        "UPDATE batch_count SET started_at = started_at - $1::interval, last_result_at = last_result_at - $1::interval",
        timedelta(**since),
    )


@pytest.mark.parametrize("idle", [{"minutes": 10}, {"hours": 7}, {"days": 300}])
async def test_a_batch_that_came_to_nothing_for_long_is_read_and_counted_on(
    database: Database, idle: dict[str, float]
) -> None:
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    await record(database, worker, all_of(await claim(database, worker, 1)))
    await age(database, **idle)

    batch = await get(database, batch_id)
    assert batch.throughput == pytest.approx(0, abs=1e-6)
    async with database.connection() as connection:
        [listed], _ = await batches.page(connection, TENANT, BatchFilters(), limit=10)
    assert listed.id == batch_id
    await record(database, worker, all_of(await claim(database, worker, 1)))

    assert (await get(database, batch_id)).success == 2


async def test_throughput_of_an_ended_batch_is_its_mean(database: Database) -> None:
    batch_id = await make_batch(database, 20)
    worker = await make_worker(database)
    await record(database, worker, all_of(await claim(database, worker, 10)))
    await age(database, seconds=10)
    await record(database, worker, all_of(await claim(database, worker, 10)))

    batch = await get(database, batch_id)
    assert batch.throughput == pytest.approx(2.0, rel=0.1)
    assert batch.eta_seconds is None


async def test_throughput_of_a_steady_batch_is_its_speed_from_the_start(database: Database) -> None:
    """Four items a second, for two seconds: long before the average has run in."""
    batch_id = await make_batch(database, 20)
    worker = await make_worker(database)
    for _ in range(2):
        await record(database, worker, all_of(await claim(database, worker, 4)))
        await age(database, seconds=1)

    batch = await get(database, batch_id)
    assert batch.throughput == pytest.approx(4.0, rel=0.15)
    assert batch.eta_seconds == pytest.approx(12 / batch.throughput, abs=1)


async def test_usage_is_summed_over_the_results_that_count(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 3)
    used = {"usage": "{}", "calls": 2, "prompt_tokens": 10, "completion_tokens": 5, "cost_microusd": 7}
    paid = failure(lease, 1)
    paid.usage, paid.calls, paid.prompt_tokens = "{}", 1, 100
    flush = Flush({lease.id: 1}, [success(lease, 0, **used), paid])

    await record(database, worker, flush)
    await record(database, worker, flush)

    batch = await get(database, batch_id)
    assert (batch.calls, batch.prompt_tokens, batch.completion_tokens, batch.cost_microusd) == (3, 110, 5, 7)


async def test_a_batch_started_with_the_first_of_its_items(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    worker = await make_worker(database)
    [early] = await claim(database, worker, 1)
    [late] = await claim(database, worker, 1)

    await record(database, worker, Flush({early.id: 0, late.id: 0}, [success(late, 1), success(early, 0)]))

    assert early.started_at < late.started_at
    [started_at] = await sql(database, "SELECT started_at FROM batch_count WHERE batch_id = $1", batch_id)
    assert started_at == early.started_at
