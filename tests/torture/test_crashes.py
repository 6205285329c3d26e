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
from torture.checker import Evidence, findings
from torture.evidence import gathered
from torture.fleet import Fleet, Worker
from torture.ledger import Item
from torture.load import PATIENCE_SECONDS, Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FAIR_SHARE = 5  # runs that each of the first workers has ended before anything happens to one


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


@pytest.mark.long
async def test_a_server_killed_at_work_on_what_it_has_just_made_loses_nothing(
    own_database_url: str, folder: Path, receiver: Receiver, pytestconfig: pytest.Config
) -> None:
    """Servers with a worker in their process: batches are born leased, and those who made them die with them."""
    rng, began = random.Random(6), time.monotonic()
    kills = int(pytestconfig.getoption("kills")) + 1
    async with Fleet(own_database_url, folder, workers=0, apis=2, apis_work=True, concurrency=40) as fleet:
        load = Load(fleet, receiver, folder, rng, large=60, patient=True)

        async def strikes() -> None:
            for _ in range(kills):
                await in_the_middle(load, rng.randint(20, 60))
                victim = rng.choice(fleet.apis)
                assert victim.worker
                await load.note_recorded()
                await has_begun_some(load, victim.worker)
                await fleet.kill_api(victim)
            await in_the_middle(load, 0)

        await load.run(strikes)
        evidence = await gathered(load, own_database_url)
        told(6, load, evidence, began)
        assert findings(evidence) == []
        assert len(fleet.gone) == kills


async def test_workers_are_replaced_at_work_without_a_loss_or_a_second_run(
    own_database_url: str, folder: Path, receiver: Receiver, at_length: bool
) -> None:
    """Rolling restarts by SIGTERM. No lease runs out: nothing ran a second time, and the lease time is long."""
    rng, began = random.Random(4), time.monotonic()
    moments = [40, 20, 60] if not at_length else [rng.randint(20, 100) for _ in range(20)]
    exits: list[tuple[int, float]] = []
    left: list[int] = []
    async with Fleet(own_database_url, folder, lease_seconds=60) as fleet:
        load = Load(fleet, receiver, folder, rng, patience_seconds=1000 if at_length else PATIENCE_SECONDS)

        async def restarts() -> None:
            for more in moments:
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
    print(f"{len(exits)} restarts, the slowest exit took {max(seconds for _, seconds in exits):.1f} s")
    assert [status for status, _ in exits] == [0] * len(moments)
    assert max(seconds for _, seconds in exits) <= 30
    assert left == [0] * len(moments)


async def test_a_second_sigterm_skips_the_wait_and_never_the_flush(
    own_database_url: str, folder: Path
) -> None:
    """Results are held up on their way into the database while the worker is told to go, twice."""
    async with Fleet(own_database_url, folder, workers=1, lease_seconds=60, drain_seconds=60) as fleet:
        load = Load(fleet, None, folder, random.Random(7))
        (worker,) = fleet.workers
        connection = await asyncpg.connect(own_database_url)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE result IN SHARE MODE")
        told = await load.post([{"text": "x", "seconds": 0.1}] * 5 + [{"text": "y", "seconds": 300}] * 3)
        await load.until(lambda: has_ended(load, worker, 5))

        worker.process.send_signal(signal.SIGTERM)
        await load.until(lambda: was_heard(worker, signal.SIGTERM))
        leaving = asyncio.create_task(fleet.retire(worker))
        await asyncio.sleep(0)  # it sends the second
        await load.until(lambda: was_heard(worker, signal.SIGTERM))
        await transaction.rollback()
        await connection.close()
        status, seconds = await leaving
        assert (status, await leases_of(own_database_url, worker)) == (0, 0)
        assert seconds < 30
        await load.watch_once(told)
        counts = [told.view[f"{name}_requests"] for name in ("completed", "pending", "processing")]
        assert counts == [5, 3, 0]


async def has_ended(load: Load, worker: Worker, count: int) -> bool:
    return load.ledger.ended[worker.pid] >= count


async def was_heard(worker: Worker, number: signal.Signals) -> bool:
    """The signal is not pending any more."""
    lines = Path(f"/proc/{worker.pid}/status").read_text("ascii").splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return not any(mask >> (number - 1) & 1 for mask in pending)


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
    own_database_url: str, folder: Path, receiver: Receiver, at_length: bool
) -> None:
    """At length for 90 s, three times the lease of the product."""
    rng, began = random.Random(5), time.monotonic()
    lease_seconds = 30 if at_length else 3
    async with Fleet(own_database_url, folder, lease_seconds=lease_seconds) as fleet:
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
        await load.until(lambda: has_lain(zombie, 3 * lease_seconds))
        print(f"stopped for {time.time() - zombie.struck_at[0]:.0f} s")
        zombie.process.send_signal(signal.SIGCONT)
        await load.until(lambda: noticed_its_death(zombie))
        await works_again(load, zombie)
        assert (await fleet.retire(zombie))[0] == 0  # what it had left to record, it has recorded by now
        evidence = await gathered(load, own_database_url)
        told(5, load, evidence, began)
        assert findings(evidence) == []
        assert {one.id: (one.view, one.rows) for one in evidence.batches if one.id in others} == others


async def has_lain(worker: Worker, seconds: float) -> bool:
    return time.time() - worker.struck_at[0] >= seconds


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


async def who_waits(
    connection: "asyncpg.Connection[asyncpg.Record]", fleet: Fleet, table: str = "event"
) -> Worker:
    """The worker whose transaction waits for the table, of which the caller's has a lock."""
    query = """
        SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)
        WHERE NOT granted AND relation = $1::text::regclass LIMIT 1
    """
    async with asyncio.timeout(60):
        while (name := await connection.fetchval(query, table)) is None:
            await asyncio.sleep(0.02)
            # Within a transaction the list of connections stays what it was at the first look.
            await connection.execute("SELECT pg_stat_clear_snapshot()")
    return next(worker for worker in fleet.workers if worker.name == name)
