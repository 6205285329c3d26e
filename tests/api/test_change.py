"""PATCH of a batch: what can be changed, when, and that the next claim goes by it."""

from typing import Any
from uuid import UUID

import pytest

import factories
from gristmill.db import Database
from gristmill.store import batches, retention
from service import Caller, code_of

BATCHES = "/api/v1/batches"


async def change(caller: Caller, batch_id: str, **fields: Any) -> dict[str, Any]:
    answer = await caller.send("PATCH", f"{BATCHES}/{batch_id}", json=fields)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def end(database: Database) -> None:
    await factories.drain(database, await factories.make_worker(database))


async def test_only_what_is_named_changes(caller: Caller) -> None:
    made = await caller.batch(2, name="old", metadata={"a": "1"}, priority=5, max_concurrency=7)
    changed = await change(caller, made["id"], metadata={"b": "2"}, priority=-20)
    assert (changed["metadata"], changed["priority"]) == ({"b": "2"}, -20)
    same = {name: value for name, value in changed.items() if name not in ("metadata", "priority")}
    assert same == {name: made[name] for name in same}
    assert await change(caller, made["id"]) == changed


async def test_the_next_claim_goes_by_the_new_limit(caller: Caller, database: Database) -> None:
    made = await caller.batch(10, max_concurrency=1)
    worker = await factories.make_worker(database)
    assert [len(lease.items) for lease in await factories.claim(database, worker, 9)] == [1]
    assert await factories.claim(database, worker, 9) == []
    await change(caller, made["id"], max_concurrency=3)
    assert [len(lease.items) for lease in await factories.claim(database, worker, 9)] == [2]
    assert (await change(caller, made["id"], max_concurrency=None))["max_concurrency"] is None
    assert [len(lease.items) for lease in await factories.claim(database, worker, 4)] == [4]
    assert caller.service.woken.is_set()


async def test_the_share_of_a_batch_follows_its_priority(caller: Caller, database: Database) -> None:
    low, high = await caller.batch(200), await caller.batch(200)
    await change(caller, high["id"], priority=100)
    await change(caller, low["id"], priority=-100)
    worker = await factories.make_worker(database)
    started = {low["id"]: 0, high["id"]: 0}
    for _ in range(101):
        for lease in await factories.claim(database, worker, 1):
            started[str(lease.batch_id)] += len(lease.items)
    assert 95 <= started[high["id"]] <= 100


async def test_a_deadline_is_counted_from_where_it_was_counted(caller: Caller, database: Database) -> None:
    made = await caller.batch(2, deadline_seconds=1000)
    changed = await change(caller, made["id"], deadline_seconds=4600)
    assert changed["deadline_seconds"] == 4600
    hour = await factories.sql(
        database, "SELECT deadline_at - created_at = interval '4600 seconds' FROM batch"
    )
    assert hour == [True]
    await factories.sql(database, "UPDATE batch SET deadline_at = deadline_at - interval '1 hour'")
    await change(caller, made["id"], deadline_seconds=10)
    worker = await factories.make_worker(database)
    assert await factories.claim(database, worker, 2) == []


async def test_an_ended_batch_keeps_its_run_and_changes_its_name_and_time(
    caller: Caller, database: Database
) -> None:
    made = await caller.batch(1, retention_days=10)
    await end(database)
    for field in ({"priority": 1}, {"max_concurrency": None}, {"deadline_seconds": 60}):
        answer = await caller.send("PATCH", f"{BATCHES}/{made['id']}", json={"name": "new", **field})
        assert code_of(answer, 409) == "wrong_status"
    assert (await caller.data(f"{BATCHES}/{made['id']}"))["name"] is None
    changed = await change(caller, made["id"], name="new", retention_days=11)
    assert (changed["name"], changed["retention_days"]) == ("new", 11)
    later = "SELECT expires_at - completed_at >= interval '10 days 23 hours' FROM batch"
    assert await factories.sql(database, later) == [True]


@pytest.mark.parametrize(
    "body",
    [
        {"priority": 101}, {"priority": "1"}, {"max_concurrency": 0}, {"deadline_seconds": 9}, {"retention_days": 0},
        {"metadata": {"a": 1}}, {"status": "paused"}, {"name": ""}, {"name": "x" * 257}, {"name": "a\0"},
    ],
)  # fmt: skip
async def test_a_bad_change_changes_nothing(caller: Caller, body: dict[str, Any]) -> None:
    made = await caller.batch(1)
    answer = await caller.send("PATCH", f"{BATCHES}/{made['id']}", json={"metadata": {"a": "1"}, **body})
    assert answer.status_code == 400
    assert await caller.data(f"{BATCHES}/{made['id']}") == made


async def test_an_expired_batch_is_gone_everywhere_with_its_counts(
    caller: Caller, database: Database
) -> None:
    made = await caller.batch(3, retention_days=1)
    await end(database)
    await factories.sql(database, "UPDATE batch SET expires_at = now()")
    async with database.transaction() as tx:
        assert await retention.expire(tx) == 1
    path = f"{BATCHES}/{made['id']}"
    for method, route in (
        ("GET", path), ("PATCH", path), ("DELETE", path), ("GET", f"{path}/results"), ("GET", f"{path}/results/req-0"),
        ("GET", f"{path}/deliveries"), ("POST", f"{path}/cancel"), ("POST", f"{path}/pause"), ("POST", f"{path}/retry"),
    ):  # fmt: skip
        answer = await caller.send(method, route, **({"json": {}} if method in ("PATCH", "POST") else {}))
        assert code_of(answer, 410) == "gone", (method, route)
        assert answer.json()["error"]["batch"]["total_requests"] == 3
    assert await caller.data(BATCHES) == []


async def test_a_batch_goes_by_the_settings_time_unless_it_says(caller: Caller, database: Database) -> None:
    assert (await caller.batch(1))["retention_days"] == 30
    made = await caller.batch(1, retention_days=3650)
    assert (made["retention_days"], made["expires_at"]) == (3650, None)
    async with database.connection() as connection:
        batch = await batches.get(connection, caller.tenant_id, UUID(made["id"]))
    assert batch.retention_days == 3650
