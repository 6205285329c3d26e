"""Processes are killed by the dozen, at the figures that are promised: workers in a large batch, APIs during creates."""

import asyncio
import random
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx2
import pytest

from torture.checker import Evidence, findings
from torture.evidence import gathered
from torture.fleet import Fleet, Worker
from torture.load import BATCHES, Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def reclaim_seconds(evidence: Evidence, gone: list[Worker]) -> list[float]:
    """From each kill to the next begin of each run that it cut off, ascending."""
    waits: list[float] = []
    for worker in gone:
        (killed_at,) = worker.struck_at
        begins = (evidence.ledger.begun[item] for item in evidence.ledger.cut_off(worker.pid))
        waits += [min(at for at in one if at > killed_at) - killed_at for one in begins]
    return sorted(waits)


@pytest.mark.long
async def test_fifty_kills_in_a_hundred_thousand_items_lose_nothing_and_are_made_good_soon(
    own_database_url: str, folder: Path, scale: float
) -> None:
    """With the lease time of the product. The short form is `test_crashes.py`."""
    rng = random.Random(1)
    items, count = int(100_000 * scale), int(50 * scale)
    moments = sorted(rng.sample(range(items // 100, items - items // 100), count))
    async with Fleet(own_database_url, folder, workers=4, lease_seconds=30, concurrency=100) as fleet:
        load = Load(fleet, None, folder, rng, seconds=(1.5, 2.5), patience_seconds=2500)
        told = await load.post_file(items)
        watching = asyncio.create_task(load.watch(told))

        at_work: list[int] = []
        async with asyncio.TaskGroup() as replacing:
            for moment in moments:
                await load.until(lambda moment=moment: can_be_struck(load, moment))  # type: ignore[misc]
                at_work.append(load.recorded())
                replacing.create_task(fleet.kill(rng.choice(fleet.workers)))
                await asyncio.sleep(0)  # it is struck
        await watching
        evidence = await gathered(load, own_database_url)
        waits = reclaim_seconds(evidence, fleet.gone)
        p99 = waits[int(len(waits) * 0.99)]
        print(
            f"{items} items, {len(fleet.gone)} kills, {len(waits)} runs cut off; re-claimed p50 {waits[len(waits) // 2]:.1f} s, "
        )
        print(f"p99 {p99:.1f} s, at most {waits[-1]:.1f} s")
        assert findings(evidence) == []
        assert len(fleet.gone) == count
        assert max(at_work) < items
        assert p99 <= 45


async def can_be_struck(load: Load, count: int) -> bool:
    """So many results are there, and two are at work."""
    return load.recorded() >= count and len(load.fleet.workers) > 1


# --- creates ------------------------------------------------------------------------------------------------------

AT_ONCE = 10
ITEMS = 30


async def create(fleet: Fleet, key: UUID, rng: random.Random) -> tuple[str, bool]:
    """As a client does that wants its batch: the same request again until it is answered. The id, and whether the answer
    was a replay."""
    requests = [{"custom_id": f"req-{n}", "input": {"text": str(key)}} for n in range(ITEMS)]
    body = {"processor": "noop", "requests": requests, "name": str(key)}
    async with asyncio.timeout(120):
        while True:
            client = rng.choice(fleet.apis).client
            try:
                answer = await client.post(BATCHES, json=body, headers={"idempotency-key": str(key)})
            except httpx2.TransportError:
                await asyncio.sleep(0.05)  # a client's own patience, not ours
                continue
            if answer.status_code == 202:
                return answer.json()["data"]["id"], "idempotency-replayed" in answer.headers
            assert answer.status_code in {409, 503}, answer.text
            await asyncio.sleep(0.05)


async def test_an_api_killed_during_keyed_creates_makes_one_whole_batch_for_each_key(
    own_database_url: str, folder: Path, at_length: bool, scale: float
) -> None:
    rng = random.Random(5)
    rounds = int(100 * scale) if at_length else 2
    made: dict[UUID, str] = {}
    replays = 0
    async with Fleet(own_database_url, folder, workers=0, apis=2) as fleet:
        for _ in range(rounds):
            keys = [UUID(int=rng.getrandbits(128)) for _ in range(AT_ONCE)]
            creates = [asyncio.create_task(create(fleet, key, rng)) for key in keys]
            wanted = rng.randrange(AT_ONCE)
            while sum(one.done() for one in creates) < wanted:
                await asyncio.wait(
                    [one for one in creates if not one.done()], return_when=asyncio.FIRST_COMPLETED
                )
            await fleet.kill_api(rng.choice(fleet.apis))
            answers = await asyncio.gather(*creates)
            replays += sum(replayed for _, replayed in answers)
            made |= {key: batch_id for key, (batch_id, _) in zip(keys, answers, strict=True)}
        again = [await create(fleet, key, rng) for key in list(made)[:20]]
    assert [batch_id for batch_id, _ in again] == list(made.values())[:20]
    assert all(replayed for _, replayed in again)
    found = await whole_batches(own_database_url)
    print(
        f"{rounds} kills, {len(made)} keys, {len(found)} batches; {replays} answers came at the second asking"
    )
    assert found == dict.fromkeys(made.values(), ITEMS)


async def whole_batches(database_url: str) -> dict[str, int]:
    """The items of each batch, which are as many as it says and as many as wait."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("""
            SELECT batch.id, batch_count.total, (SELECT count(*) FROM item WHERE batch_id = batch.id) AS items,
                (SELECT coalesce(sum(last - first + 1), 0) FROM span WHERE batch_id = batch.id) AS waiting
            FROM batch JOIN batch_count ON batch_id = batch.id
        """)
    finally:
        await connection.close()
    assert all(row["total"] == row["items"] == row["waiting"] for row in rows)
    return {str(row["id"]): row["items"] for row in rows}
