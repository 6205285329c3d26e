"""Workers are killed, stopped and replaced in the middle of their work: nothing is lost, nothing counted twice.

`make torture ARGS='--seeds 10 --kills 3'` does more of it. What happens is decided by conditions (so many results are
recorded, that process has begun items); chance is seeded, and the seed is the parameter of the test.
"""

import asyncio
import random
import signal
import time
from pathlib import Path

import asyncpg
import pytest

from fakes.receiver import Receiver
from gristmill.db import Database
from gristmill.store.audit import audit
from torture.checker import Evidence, Struck, findings
from torture.fleet import Fleet, Worker
from torture.ledger import Item
from torture.load import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FAIR_SHARE = 5  # runs that each of the first workers has ended before anything happens to one


async def gathered(load: Load, database_url: str) -> Evidence:
    evidence = await load.evidence()
    evidence.struck = {
        worker.pid: Struck(worker.struck_at, max(len(worker.struck_at), worker.times_declared_dead()))
        for worker in load.fleet.ever
    }
    database = await Database(database_url).open()
    async with database.connection() as connection:
        evidence.violations = await audit(connection)
    await database.close()
    return evidence


async def in_the_middle(load: Load, more: int) -> None:
    """Until so many more results are recorded, and each worker, the newest too, has done some of the work."""
    goal = load.recorded() + more

    async def reached() -> bool:
        working = all(load.ledger.ended[worker.pid] >= FAIR_SHARE for worker in load.fleet.workers)
        return working and load.recorded() >= goal

    await load.until(reached)


async def has_begun_some(load: Load, worker: Worker) -> None:
    async def busy() -> bool:
        return load.ledger.open_of(worker.pid) > 0

    await load.until(busy)


def told(seed: int, load: Load, evidence: Evidence, began: float) -> None:
    """One line for who ran this by hand."""
    again = sum(
        len(evidence.ledger.runs[Item(one.id, n)]) > 1 + given.get("retries", 0)
        for one in evidence.batches
        for n, given in enumerate(one.inputs)
    )
    posts = [post for post in evidence.received if post.path.startswith("/hook/")]
    print(
        f"seed {seed}: {load.posted()} requests in {len(load.batches)} batches, "
        f"{sum(len(one.moments) for one in evidence.struck.values())} struck of {len(evidence.struck)} workers, "
        f"{again} requests had to run again, {len(posts)} webhooks, {time.monotonic() - began:.0f} s"
    )


async def test_a_worker_killed_at_work_loses_nothing_and_counts_nothing_twice(
    own_database_url: str, folder: Path, receiver: Receiver, seed: int, pytestconfig: pytest.Config
) -> None:
    rng, began = random.Random(seed), time.monotonic()
    moments = [rng.randint(20, 150) for _ in range(pytestconfig.getoption("kills"))]
    async with Fleet(own_database_url, folder) as fleet:
        load = Load(fleet, receiver, folder, rng)

        async def kills() -> None:
            for more in moments:
                await in_the_middle(load, more)
                victim = rng.choice(fleet.workers)
                await load.note_recorded()
                await has_begun_some(load, victim)
                await fleet.kill(victim)
            await in_the_middle(load, 0)

        await load.run(kills)
        evidence = await gathered(load, own_database_url)
        told(seed, load, evidence, began)
        assert findings(evidence) == []
        assert len(fleet.gone) == len(moments)


async def test_workers_are_replaced_at_work_without_a_loss_or_a_second_run(
    own_database_url: str, folder: Path, receiver: Receiver
) -> None:
    """Three rolling restarts by SIGTERM. No lease runs out: nothing ran a second time, and the lease time is long."""
    rng, began = random.Random(4), time.monotonic()
    exits: list[tuple[int, float]] = []
    left: list[int] = []
    async with Fleet(own_database_url, folder, lease_seconds=60) as fleet:
        load = Load(fleet, receiver, folder, rng)

        async def restarts() -> None:
            for more in (40, 20, 60):
                await in_the_middle(load, more)
                leaving = rng.choice(fleet.workers)
                await load.note_recorded()
                await has_begun_some(load, leaving)
                exits.append(await fleet.retire(leaving))
                left.append(await leases_of(own_database_url, leaving))
                await fleet.hire()
            await in_the_middle(load, 0)

        await load.run(restarts)
        evidence = await gathered(load, own_database_url)
        told(4, load, evidence, began)
        assert findings(evidence) == []
    assert [status for status, _ in exits] == [0, 0, 0]
    assert max(seconds for _, seconds in exits) <= 30
    assert left == [0, 0, 0]


async def leases_of(database_url: str, worker: Worker) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM lease JOIN worker ON worker.id = worker_id WHERE name LIKE $1",
            f"%:{worker.pid}",
        )
        return count
    finally:
        await connection.close()


async def test_a_worker_that_was_stopped_and_comes_back_changes_nothing(
    own_database_url: str, folder: Path, receiver: Receiver
) -> None:
    rng, began = random.Random(5), time.monotonic()
    async with Fleet(own_database_url, folder) as fleet:
        load = Load(fleet, receiver, folder, rng)
        stopped: list[Worker] = []

        async def stop() -> None:
            await in_the_middle(load, 60)
            stopped.append(rng.choice(fleet.workers))
            await load.note_recorded()
            await has_begun_some(load, stopped[0])
            stopped[0].strike(signal.SIGSTOP)

        await load.run(stop)
        before = await load.evidence()
        assert all(one.view["status"] == "completed" for one in before.batches)
        others = {one.id: (one.view, one.rows) for one in before.batches}

        (zombie,) = stopped
        zombie.process.send_signal(signal.SIGCONT)
        await load.until(lambda: noticed_its_death(zombie))
        await works_again(load, zombie)
        assert (await fleet.retire(zombie))[0] == 0  # what it had left to record, it has recorded by now
        evidence = await gathered(load, own_database_url)
        told(5, load, evidence, began)
        assert findings(evidence) == []
        assert {one.id: (one.view, one.rows) for one in evidence.batches if one.id in others} == others


async def noticed_its_death(worker: Worker) -> bool:
    return worker.times_declared_dead() > 0


async def works_again(load: Load, worker: Worker) -> None:
    """It has ended the runs in which it was stopped, and takes part in what comes later."""

    async def idle() -> bool:
        return load.ledger.open_of(worker.pid) == 0

    await load.until(idle)
    ended = load.ledger.ended[worker.pid]
    while load.ledger.ended[worker.pid] == ended:
        await load.one_batch(40)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_the_end_of_a_batch_and_its_announcement_are_one_thing_for_a_crash(
    own_database_url: str, folder: Path, receiver: Receiver, number: signal.Signals
) -> None:
    """The worker that is about to end a batch is held where it writes the event, and struck there."""
    async with Fleet(own_database_url, folder) as fleet:
        load = Load(fleet, receiver, folder, random.Random(6), large=40)
        struck: list[Worker] = []

        async def strike() -> None:
            connection = await asyncpg.connect(own_database_url)
            async with connection.transaction():
                await connection.execute("LOCK TABLE event IN SHARE MODE")
                struck.append(await who_waits(connection, fleet))
                struck[0].strike(number)
            await connection.close()

        await load.run(strike)
        if number is signal.SIGSTOP:
            struck[0].process.send_signal(signal.SIGCONT)
            await load.until(lambda: noticed_its_death(struck[0]))
            await asyncio.gather(*(fleet.retire(worker) for worker in list(fleet.workers)))
        evidence = await gathered(load, own_database_url)
        assert findings(evidence) == []


async def who_waits(connection: "asyncpg.Connection[asyncpg.Record]", fleet: Fleet) -> Worker:
    """The worker whose transaction waits for the table of events."""
    query = """
        SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)
        WHERE NOT granted AND relation = 'event'::regclass LIMIT 1
    """
    async with asyncio.timeout(60):
        while (name := await connection.fetchval(query)) is None:
            await asyncio.sleep(0.02)
    return next(worker for worker in fleet.workers if worker.name == name)
