"""The network between the processes and Postgres misbehaves: replies get lost, connections are reset, slow, sliced, or dead
without a word."""

import random
import time
from pathlib import Path

import pytest

from torture.checker import findings
from torture.evidence import gathered
from torture.fleet import Fleet
from torture.load import Load
from torture.proxy import Proxy, schedule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FAULTS = ["latency", "slow", "sliced", "reset", "frozen", "black hole"]


async def recorded_more(load: Load, count: int) -> None:
    goal = load.recorded() + count

    async def reached() -> bool:
        return load.recorded() >= goal or load.ended()

    await load.until(reached)


async def test_a_commit_whose_reply_is_lost_doubles_nothing(
    own_database_url: str, folder: Path, at_length: bool
) -> None:
    """Creates, claims, flushes and heartbeats, of both APIs and all workers."""
    rng = random.Random(6)
    rounds = 15 if at_length else 2
    async with Proxy.to_postgres(own_database_url) as proxy:
        through = proxy.postgres_url(own_database_url)
        apis, workers = (2, 4) if at_length else (1, 2)
        async with Fleet(through, folder, apis=apis, workers=workers) as fleet:
            load = Load(fleet, None, folder, rng, large=300 if at_length else 60, patient=True)
            proxy.drop_every = 20 if at_length else 7

            async def while_replies_are_lost() -> None:
                for _ in range(rounds):
                    before = proxy.dropped
                    await load.until(lambda before=before: lost_more(proxy, before))  # type: ignore[misc]

            await load.run(while_replies_are_lost)
            proxy.heal()
            evidence = await gathered(load, own_database_url)
    print(f"{proxy.dropped} of {proxy.commits} replies to COMMIT dropped; {load.posted()} requests in ")
    print(f"{len(load.batches)} batches; {load.answers}")
    assert findings(evidence) == []
    assert proxy.dropped >= rounds


async def lost_more(proxy: Proxy, before: int) -> bool:
    return proxy.dropped >= before + 5


async def test_half_open_connections_are_noticed_and_double_nothing(
    own_database_url: str, folder: Path, at_length: bool
) -> None:
    """All connections of workers and API pass nothing any more, and nobody is told; new ones would work."""
    rng = random.Random(9)
    async with Proxy.to_postgres(own_database_url) as proxy:
        through = proxy.postgres_url(own_database_url)
        timeout_seconds = 10 if at_length else 2  # of the product, and less
        settings = {"lease_seconds": 30, "database_timeout_seconds": timeout_seconds}
        async with Fleet(through, folder, **settings) as fleet:
            load = Load(fleet, None, folder, rng, patient=True, seconds=(0.05, 0.2))
            times: list[float] = []

            async def freeze() -> None:
                for _ in range(5 if at_length else 1):
                    await recorded_more(load, 50)
                    began = time.monotonic()
                    assert proxy.freeze_all() > 0
                    await recorded_more(load, 1)
                    times.append(time.monotonic() - began)

            await load.run(freeze)
            evidence = await gathered(load, own_database_url)
    print(
        f"{len(times)} times frozen; recorded and answered again after {max(times):.1f} s at most; {load.answers}"
    )
    assert findings(evidence) == []
    assert max(times) <= 15


@pytest.mark.long
async def test_whatever_the_network_does_nothing_is_lost_or_doubled(
    own_database_url: str, folder: Path, seed: int
) -> None:
    rng = random.Random(seed)
    async with Proxy.to_postgres(own_database_url) as proxy:
        through = proxy.postgres_url(own_database_url)
        async with Fleet(through, folder, apis=2, workers=4, lease_seconds=10) as fleet:
            load = Load(fleet, None, folder, rng, patient=True, patience_seconds=900)

            async def torment() -> None:
                for fault in schedule(seed, FAULTS, 12):
                    await recorded_more(load, rng.randint(30, 120))
                    await suffered(proxy, load, fault)

            await load.run(torment)
            evidence = await gathered(load, own_database_url)
    print(f"seed {seed}: {load.posted()} requests in {len(load.batches)} batches; {load.answers}")
    assert findings(evidence) == []


async def suffered(proxy: Proxy, load: Load, fault: str) -> None:
    """One fault, as long as it takes to record some results in spite of it, or to be noticed."""
    match fault:
        case "latency":
            proxy.latency_seconds = 0.1
        case "slow":
            proxy.bytes_per_second = 100_000
        case "sliced":
            proxy.slice_bytes = 5
        case "reset":
            proxy.reset_all()
        case "frozen":
            proxy.freeze_all()
        case "black hole":
            proxy.black_hole = True
            await noticed(load)
            proxy.heal()
    await recorded_more(load, 30)
    proxy.heal()


async def noticed(load: Load) -> None:
    """The APIs say that they cannot reach their database."""
    before = load.answers.statuses[503]

    async def said() -> bool:
        return load.answers.statuses[503] > before

    await load.until(said)
