"""How much work waits, as autoscalers are told."""

from typing import Any

import pytest

from factories import all_of, claim, drain, failure, make_batch, make_worker, record, retry, sql, sweep, turn
from gristmill.db import Database
from gristmill.domain.limits import FailureThreshold, LimitAction
from gristmill.store import depth, transitions
from gristmill.store.recording import Flush


async def queue(database: Database) -> dict[str, tuple[int, int]]:
    """Startable and running, by processor."""
    async with database.connection() as connection:
        return {one.processor: (one.startable, one.running) for one in await depth.queue(connection)}


async def test_what_waits_and_what_runs_is_told_by_processor_over_all_batches(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 10)
    await make_batch(database, 5)
    await make_batch(database, 7, processor="other")
    assert await queue(database) == {"noop": (15, 0), "other": (7, 0)}

    leases = await claim(database, worker, 4)
    assert await queue(database) == {"noop": (11, 4), "other": (7, 0)}

    await record(database, worker, all_of(leases))
    assert await queue(database) == {"noop": (11, 0), "other": (7, 0)}

    await drain(database, worker, {"noop": 100, "other": 100})
    assert await queue(database) == {}


async def test_no_more_is_startable_than_the_batchs_own_limit_lets_start(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 10, max_concurrency=3)
    assert await queue(database) == {"noop": (3, 0)}
    await claim(database, worker, 2)
    assert await queue(database) == {"noop": (1, 2)}
    await claim(database, worker, 2)
    assert await queue(database) == {"noop": (0, 3)}


async def test_what_may_not_start_is_not_told(database: Database) -> None:
    worker = await make_worker(database)
    paused = await make_batch(database, 10)
    await turn(database, transitions.pause, paused)
    later = await make_batch(database, 1)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0, delay_seconds=60.0)]))
    assert (lease.batch_id, await queue(database)) == (later, {})

    await sql(database, "UPDATE span SET available_at = now() WHERE batch_id = $1", later)
    assert await queue(database) == {"noop": (1, 0)}
    await turn(database, transitions.resume, paused)
    assert await queue(database) == {"noop": (11, 0)}
    for one in (paused, later):
        await turn(database, transitions.cancel, one)
    assert await queue(database) == {}
    await sweep(database)


async def test_a_batch_beyond_its_limit_or_with_an_open_circuit_is_not_told(database: Database) -> None:
    worker = await make_worker(database)
    limit = FailureThreshold(0.1, 1, LimitAction.PAUSE)
    await make_batch(database, 5, failure_threshold=limit)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, 0)]))
    assert await queue(database) == {}

    await make_batch(database, 5, circuit="url:somewhere")
    assert await queue(database) == {"noop": (5, 0)}
    opened = """
        INSERT INTO circuit (tenant_id, name, reason, until, pause_seconds, longest_seconds)
        SELECT tenant_id, circuit, 'down', now() + interval '1 minute', 1, 1 FROM batch_schedule WHERE circuit IS NOT NULL
    """
    await sql(database, opened)
    assert await queue(database) == {}


@pytest.mark.parametrize("seconds", [0, 600])
async def test_the_oldest_waits_since_it_could_have_been_started(database: Database, seconds: int) -> None:
    old = await make_batch(database, 3)
    await make_batch(database, 3)
    aged: Any = "UPDATE span SET available_at = available_at - make_interval(secs => $2) WHERE batch_id = $1"
    await sql(database, aged, old, seconds)
    async with database.connection() as connection:
        [found] = await depth.queue(connection)
    assert seconds <= found.oldest_seconds < seconds + 60
