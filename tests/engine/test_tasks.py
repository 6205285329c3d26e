"""One list of the items of all batches: whatever is asked for, it is what a walk over every item would give."""

import random
from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from factories import (
    TENANT,
    claim,
    expire,
    failure,
    in_chats,
    lose,
    make_batch,
    make_worker,
    record,
    retry,
    sql,
    success,
    sweep,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.errors import Invalid, NotFound
from gristmill.domain.states import ItemStatus
from gristmill.store import batches, results, retries, tasks
from gristmill.store.new_batches import NewItem
from gristmill.store.recording import Flush
from gristmill.store.tasks import TaskFilters, TaskPage

ALL = TaskFilters()
OTHER = UUID("00000000-0000-7000-8000-000000000002")


async def listed(
    database: Database, filters: TaskFilters = ALL, *, limit: int = 1000, offset: int = 0
) -> TaskPage:
    async with database.connection() as connection:
        return await tasks.page(connection, TENANT, filters, limit=limit, offset=offset)


async def by_walking(database: Database) -> list[dict[str, Any]]:
    """Every item of the tenant with its status, as `store/results.py` shows it."""
    found = []
    for batch_id, processor, collection, maker in await sql(
        database,
        "SELECT id, processor, collection, created_by FROM batch WHERE tenant_id = $1 ORDER BY id DESC",
        TENANT,
    ):
        async with database.connection() as connection:
            batch = await batches.get(connection, TENANT, batch_id)
            items = await results.window(connection, batch, 0, batch.total)
        names = await sql(database, "SELECT name FROM item WHERE batch_id = $1 ORDER BY ordinal", batch_id)
        found += [
            {"batch_id": batch_id, "ordinal": item.ordinal, "status": item.status, "processor": processor,
             "collection": collection, "created_by": maker, "name": name}
            for item, name in zip(items, names, strict=True)
        ]  # fmt: skip
    return found


async def many(database: Database, chance: random.Random) -> None:
    """Batches in every state, some of another tenant, with items of every status and names here and there."""
    worker = await make_worker(database)
    for n in range(12):
        items = [
            NewItem(
                f"item-{i}",
                "{}",
                name=f"Report {i} of {chance.choice('abc')}.PDF" if chance.random() < 0.7 else None,
                error='{"message":"no"}' if chance.random() < 0.1 else None,
            )
            for i in range(chance.randrange(1, 30))
        ]
        batch_id = await make_batch(
            database,
            items,
            tenant_id=OTHER if n % 5 == 4 else TENANT,
            collection=chance.choice([None, "red", "blue"]),
            created_by=chance.choice(["ann", "bob"]),
        )
        await _work(database, chance, worker)
        if chance.random() < 0.2:
            await expire(database, batch_id)
        if chance.random() < 0.4:
            await sweep(database)
    for batch_id in await sql(database, "SELECT id FROM batch WHERE status = 'completed' AND run = 1"):
        if await sql(
            database, "SELECT FROM result WHERE batch_id = $1 AND status = 2 AND attempt > 0", batch_id
        ):
            await turn(database, retries.retry, batch_id, await _tenant(database, batch_id))
    await _work(database, chance, worker)


async def _tenant(database: Database, batch_id: UUID) -> UUID:
    [tenant_id] = await sql(database, "SELECT tenant_id FROM batch WHERE id = $1", batch_id)
    return UUID(str(tenant_id))


async def _work(database: Database, chance: random.Random, worker: int) -> None:
    for _ in range(chance.randrange(4)):
        for lease in await claim(database, worker, chance.randrange(1, 20)):
            ended, again, left = [], [], 0
            for item in lease.items:
                fate = chance.random()
                if fate < 0.4:
                    ended.append(success(lease, item.ordinal))
                elif fate < 0.7:
                    ended.append(failure(lease, item.ordinal))
                elif fate < 0.85:
                    again.append(retry(lease, item.ordinal, 60))
                else:
                    left += 1
            await record(database, worker, Flush({lease.id: left}, ended, again))


FILTERS: list[Mapping[str, Any]] = [
    {},
    {"collection": "red"},
    {"created_by": "bob"},
    {"collection": "blue", "created_by": "ann"},
    {"processor": "noop"},
    {"processor": "another"},
    {"name": "OF A.pdf"},
    {"name": "report", "collection": "red"},
    {"name": "%"},
]


@pytest.mark.parametrize("seed", range(3))
async def test_any_page_of_any_filter_is_that_of_a_walk_over_every_item(
    database: Database, seed: int
) -> None:
    await many(database, random.Random(seed))
    every = await by_walking(database)
    assert {one["status"] for one in every} == set(ItemStatus)

    for wanted, status in product(FILTERS, [None, *ItemStatus]):
        matching = [
            one
            for one in every
            if all(
                value.lower() in (one["name"] or "").lower() if name == "name" else one[name] == value
                for name, value in wanted.items()
            )
        ]
        shown = [one for one in matching if status in (None, one["status"])]
        for limit, offset in ((7, 0), (5, 10), (1000, 0), (3, 10_000)):
            page = await listed(database, TaskFilters(status=status, **wanted), limit=limit, offset=offset)
            assert page.counts == dict.fromkeys(ItemStatus, 0) | Counter(x["status"] for x in matching)
            assert page.total == len(shown)
            assert [(one.batch_id, one.ordinal, one.status) for one in page.tasks] == [
                (one["batch_id"], one["ordinal"], one["status"]) for one in shown[offset : offset + limit]
            ], (wanted, status, limit, offset)
    assert await violations(database) == []


async def test_a_task_shows_what_it_is_about(database: Database) -> None:
    worker = await make_worker(database)
    items = [NewItem("a", "{}", name="a.pdf"), NewItem("b", "{}"), NewItem("c", "{}")]
    batch_id = await make_batch(database, items, collection="books", created_by="ann", processor="noop")
    [lease] = await claim(database, worker, 2)
    await record(database, worker, Flush({lease.id: 1}, [failure(lease, 0)]))

    failed, running, waits = (await listed(database)).tasks

    assert (failed.custom_id, failed.name, failed.processor) == ("a", "a.pdf", "noop")
    assert (failed.collection, failed.created_by, failed.code, failed.progress) == ("books", "ann", 500, 1.0)
    assert failed.error == '{"type":"test","message":"as asked"}'
    assert failed.started_at == running.started_at == lease.started_at
    assert failed.processed_at is not None
    assert (running.status, running.progress, running.processed_at) == (ItemStatus.PROCESSING, 0.0, None)
    assert (waits.status, waits.started_at, waits.batch_id) == (ItemStatus.PENDING, None, batch_id)
    async with database.connection() as connection:
        assert await tasks.one(connection, TENANT, batch_id, 0) == failed
        for tenant_id, wanted, ordinal in ((OTHER, batch_id, 0), (TENANT, uuid4(), 0), (TENANT, batch_id, 3)):
            with pytest.raises(NotFound, match="no such task"):
                await tasks.one(connection, tenant_id, wanted, ordinal)


async def test_nothing_runs_in_a_batch_that_ended_though_a_worker_is_still_at_it(database: Database) -> None:
    zombie, worker = await make_worker(database), await make_worker(database)
    await make_batch(database, 2)
    [old] = await claim(database, zombie, 2)
    await lose(database, zombie)
    await claim(database, worker, 2)
    await record(database, zombie, Flush({old.id: 0}, [success(old, 0), success(old, 1)]))
    assert await sql(database, "SELECT sum(remaining)::int FROM lease") == [2]

    page = await listed(database)

    assert page.counts == dict.fromkeys(ItemStatus, 0) | {ItemStatus.SUCCESS: 2}
    assert (page.total, (await listed(database, TaskFilters(status=ItemStatus.PROCESSING))).total) == (2, 0)


async def test_what_a_name_is_searched_for_is_no_pattern(database: Database) -> None:
    names = ["100%", "100 %", "a_b", "axb", "a\\b", "Ärger"]
    await make_batch(database, [NewItem(name, "{}", name=name) for name in names])
    for text, found in {
        "0%": ["100%"],
        "A_B": ["a_b"],
        "\\": ["a\\b"],
        "ärG": ["Ärger"],
        "x": ["axb"],
    }.items():
        assert [one.name for one in (await listed(database, TaskFilters(name=text))).tasks] == found


async def test_a_search_that_takes_too_long_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SEARCH_SECONDS", 0.001)
    await make_batch(database, [NewItem(str(n), "{}", name=f"{n} {'x' * 200}") for n in range(20_000)])

    with pytest.raises(Invalid) as refusal:
        await listed(database, TaskFilters(name="nowhere"))

    assert refusal.value.code == "search_too_broad"
    monkeypatch.undo()
    assert (await listed(database, TaskFilters(name="19999 x"))).total == 1


@pytest.mark.parametrize("status", [None, ItemStatus.PENDING])
async def test_a_page_deep_in_a_batch_reads_no_items_before_it(
    database: Database, status: ItemStatus | None
) -> None:
    """Rows that Postgres really read, as it counts them itself."""
    await make_batch(database, 20_000)
    await make_batch(database, in_chats(*[None] * 20))
    async with database.connection() as connection:
        await connection.execute("VACUUM ANALYZE item")
        places = tasks._TASKS.format(places=tasks._PLACES[status])
        batch_ids = await sql(database, "SELECT id FROM batch WHERE total = 20000")
        [plan] = await connection.fetchrow(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {places}", batch_ids, [19_990], [10], [status is None]
        )
        assert _rows_read(plan) < 500
    page = await listed(database, TaskFilters(status=status), limit=10, offset=20_010)
    assert [one.ordinal for one in page.tasks] == list(range(19_990, 20_000))


def _rows_read(plan: str) -> int:
    waiting, most = [orjson.loads(plan)[0]["Plan"]], 0
    while waiting:
        node = waiting.pop()
        removed = node.get("Rows Removed by Filter", 0)
        most = max(most, int((node["Actual Rows"] + removed) * node["Actual Loops"]))
        waiting += node.get("Plans", [])
    return most
