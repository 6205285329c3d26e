"""Seed 004, rules 14 to 16 and 24 to 28: a batch as it runs, and what can be done to it."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

import factories
from gristmill.db import Database
from gristmill.store import endings, transitions
from service import Caller, code_of

BATCHES = "/api/v1/batches"
ACTIONS = ("pause", "resume", "cancel")


def adds_up(batch: dict[str, int]) -> bool:
    ended = batch["completed_requests"] + batch["failed_requests"]
    return batch["total_requests"] == batch["pending_requests"] + batch["processing_requests"] + ended


async def sweep(database: Database) -> None:
    """What the sweeper does until nothing is left to do."""
    swept = 1
    while swept:
        async with database.transaction() as tx:
            swept = await endings.sweep(tx)


async def reach(caller: Caller, database: Database, status: str, *, requests: int = 2) -> str:
    """The id of a batch in that status."""
    batch_id = str((await caller.batch(requests))["id"])
    if status == "paused":
        await caller.post(f"{BATCHES}/{batch_id}/pause")
    elif status in ("cancelling", "cancelled"):
        await caller.post(f"{BATCHES}/{batch_id}/cancel")
    elif status == "completed":
        await factories.drain(database, await factories.make_worker(database))
    elif status == "failed":
        async with database.transaction() as tx:
            await tx.execute("UPDATE batch_schedule SET deadline_at = now() - interval '1 s'")
            await endings.expire(tx)
    if status in ("cancelled", "failed"):
        await sweep(database)
    assert (await caller.data(f"{BATCHES}/{batch_id}"))["status"] == status
    return batch_id


async def test_counts_are_live_and_count_successes_as_completed(caller: Caller, database: Database) -> None:
    batch = await caller.batch(10)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 6)
    ended = [
        factories.success(lease, n, usage="{}", calls=1, prompt_tokens=15, completion_tokens=4)
        for n in range(4)
    ]
    ended.append(factories.failure(lease, 4))
    await factories.record(database, worker, factories.Flush({lease.id: 1}, ended), alone=True)
    shown = await caller.data(f"{BATCHES}/{batch['id']}")
    assert (shown["completed_requests"], shown["failed_requests"]) == (4, 1)
    assert (shown["processing_requests"], shown["pending_requests"]) == (1, 4)
    assert adds_up(shown)
    assert shown["progress"] == 0.5
    assert (shown["completed_at"], shown["cancelled_at"]) == (None, None)
    assert shown["usage"] == {
        "total_calls": 4,
        "total_prompt_tokens": 60,
        "total_completion_tokens": 16,
        "total_tokens": 76,
        "cost_microusd": 0,
    }


async def test_a_batch_whose_requests_all_ended_is_completed_even_if_all_failed(
    caller: Caller, database: Database
) -> None:
    batch = await caller.batch(2)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 2)
    ended = [factories.failure(lease, n) for n in range(2)]
    await factories.record(database, worker, factories.Flush({lease.id: 0}, ended), alone=True)
    shown = await caller.data(f"{BATCHES}/{batch['id']}")
    assert (shown["status"], shown["completed_requests"], shown["failed_requests"]) == ("completed", 0, 2)
    assert shown["progress"] == 1.0
    assert shown["completed_at"].endswith("Z")
    assert shown["cancelled_at"] is None


@pytest.mark.parametrize(
    "batch_id", ["01a20313-7126-7000-b171-15a57bafe5cf", "7", "not-an-id", "%00", "..%2f..%2fetc", "x" * 3000]
)
async def test_an_unknown_batch_is_404_on_every_route(caller: Caller, batch_id: str) -> None:
    routes = [("GET", ""), ("DELETE", ""), ("GET", "/results"), ("GET", "/results/a"), ("GET", "/deliveries")]
    routes += [("POST", f"/{action}") for action in ACTIONS]
    for method, path in routes:
        answer = await caller.send(method, f"{BATCHES}/{batch_id}{path}")
        assert code_of(answer, 404) == "not_found", (method, path)


async def test_ids_are_found_in_either_case(caller: Caller) -> None:
    batch_id = (await caller.batch(1))["id"]
    assert (await caller.data(f"{BATCHES}/{batch_id.upper()}"))["id"] == batch_id


async def test_pause_and_resume_answer_with_the_batch(caller: Caller) -> None:
    batch_id = (await caller.batch(2))["id"]
    paused = await caller.post(f"{BATCHES}/{batch_id}/pause")
    assert paused.status_code == 202
    assert (paused.json()["data"]["status"], paused.json()["data"]["waiting_reason"]) == ("paused", "paused")
    caller.service.woken.clear()
    resumed = await caller.post(f"{BATCHES}/{batch_id}/resume", {})
    assert (resumed.status_code, resumed.json()["data"]["status"]) == (202, "in_progress")
    assert caller.service.woken.is_set()


async def test_nothing_starts_after_a_pause_was_answered(caller: Caller, database: Database) -> None:
    batch_id = (await caller.batch(5))["id"]
    worker = await factories.make_worker(database)
    leases = await factories.claim(database, worker, 2)
    await caller.post(f"{BATCHES}/{batch_id}/pause")
    assert await factories.claim(database, worker, 10) == []
    await factories.record(database, worker, factories.all_of(leases), alone=True)
    shown = await caller.data(f"{BATCHES}/{batch_id}")
    assert (shown["status"], shown["completed_requests"], shown["pending_requests"]) == ("paused", 2, 3)


@pytest.mark.parametrize("status", ["in_progress", "paused"])
async def test_cancel_answers_cancelling_at_once(caller: Caller, database: Database, status: str) -> None:
    batch_id = await reach(caller, database, status)
    answer = await caller.post(f"{BATCHES}/{batch_id}/cancel")
    assert answer.status_code == 202
    data = answer.json()["data"]
    assert (data["status"], data["cancelled_at"], data["completed_requests"]) == ("cancelling", None, 0)


async def test_cancel_lets_running_requests_finish_and_ends_the_rest_with_499(
    caller: Caller, database: Database
) -> None:
    batch_id = (await caller.batch(5))["id"]
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 2)
    await caller.post(f"{BATCHES}/{batch_id}/cancel")
    assert await factories.claim(database, worker, 10) == []
    await sweep(database)
    running = await caller.data(f"{BATCHES}/{batch_id}")
    assert (running["status"], running["processing_requests"], running["failed_requests"]) == (
        "cancelling",
        2,
        3,
    )
    flush = factories.Flush({lease.id: 0}, [factories.success(lease, 0), factories.failure(lease, 1)])
    await factories.record(database, worker, flush, alone=True)
    ended = await caller.data(f"{BATCHES}/{batch_id}")
    assert (ended["status"], ended["completed_requests"], ended["failed_requests"]) == ("cancelled", 1, 4)
    assert (ended["cancelled_requests"], ended["completed_at"]) == (3, None)
    assert ended["cancelled_at"].endswith("Z")
    results = await caller.data(f"{BATCHES}/{batch_id}/results")
    assert [one["error_code"] for one in results] == [None, 500, 499, 499, 499]


async def test_a_batch_past_its_deadline_is_failed_and_its_requests_408(
    caller: Caller, database: Database
) -> None:
    batch_id = await reach(caller, database, "failed")
    shown = await caller.data(f"{BATCHES}/{batch_id}")
    assert (shown["failed_requests"], shown["expired_requests"], shown["cancelled_at"]) == (2, 2, None)
    assert shown["completed_at"] is not None
    assert {one["error_code"] for one in await caller.data(f"{BATCHES}/{batch_id}/results")} == {408}


FORBIDDEN = [
    ("in_progress", "resume"),
    ("paused", "pause"),
    *[
        (status, action)
        for status in ("cancelling", "cancelled", "completed", "failed")
        for action in ACTIONS
    ],
]


@pytest.mark.parametrize(("status", "action"), FORBIDDEN)
async def test_a_transition_that_is_not_allowed_is_409_and_names_the_status(
    caller: Caller, database: Database, status: str, action: str
) -> None:
    batch_id = await reach(caller, database, status)
    answer = await caller.post(f"{BATCHES}/{batch_id}/{action}")
    assert code_of(answer, 409) == "wrong_status"
    assert status in answer.json()["message"]
    assert (await caller.data(f"{BATCHES}/{batch_id}"))["status"] == status


@pytest.mark.parametrize("status", ["in_progress", "paused", "cancelling"])
async def test_a_batch_that_has_not_ended_cannot_be_deleted(
    caller: Caller, database: Database, status: str
) -> None:
    batch_id = await reach(caller, database, status)
    answer = await caller.send("DELETE", f"{BATCHES}/{batch_id}")
    assert code_of(answer, 409) == "wrong_status"
    assert status in answer.json()["message"]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_an_ended_batch_can_be_deleted_with_all_that_belongs_to_it(
    caller: Caller, database: Database, status: str
) -> None:
    batch_id = await reach(caller, database, status)
    answer = await caller.send("DELETE", f"{BATCHES}/{batch_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await caller.get(f"{BATCHES}/{batch_id}")).status_code == 404
    assert (await caller.get(f"{BATCHES}/{batch_id}/results")).status_code == 404
    await factories.erase(database)
    async with database.connection() as connection:
        left = "SELECT (SELECT count(*) FROM item) + (SELECT count(*) FROM result) + (SELECT count(*) FROM event)"
        assert await connection.fetchval(left) == 0


@pytest.mark.parametrize("body", [b"", b"{}", b"  {} "])
async def test_actions_take_no_body_or_an_empty_object(caller: Caller, body: bytes) -> None:
    batch_id = (await caller.batch(1))["id"]
    headers = {"content-type": "application/json"} if body else {}
    answer = await caller.send("POST", f"{BATCHES}/{batch_id}/pause", content=body, headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize("body", [b'{"force":true}', b"[]", b"null", b"{"])
async def test_actions_refuse_any_other_body(caller: Caller, body: bytes) -> None:
    batch_id = (await caller.batch(1))["id"]
    headers = {"content-type": "application/json"}
    answer = await caller.send("POST", f"{BATCHES}/{batch_id}/pause", content=body, headers=headers)
    assert answer.status_code == 400
    assert (await caller.data(f"{BATCHES}/{batch_id}"))["status"] == "in_progress"


async def test_many_who_wait_are_answered_when_the_status_changes(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = (await caller.batch(1))["id"]
    watch = caller.service.app.state.parts.watch
    changed, seen = watch.changed, []

    async def noticed(*arguments: Any) -> Any:
        seen.append(arguments)
        return await changed(*arguments)

    monkeypatch.setattr(watch, "changed", noticed)
    waiting = [asyncio.create_task(caller.data(f"{BATCHES}/{batch_id}?wait=30")) for _ in range(20)]
    async with asyncio.timeout(20):
        while len(seen) < 20 or not watch._looks:  # all have read the status that is to change
            await asyncio.sleep(0)
        assert len(watch._looks) == 1  # all share one look
        await caller.post(f"{BATCHES}/{batch_id}/pause")
        answers = await asyncio.gather(*waiting)
    assert {one["status"] for one in answers} == {"paused"}


async def test_who_waits_is_answered_before_an_interval_is_over_if_it_changes_soon(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.api.watch.INTERVAL_SECONDS", 3600.0)
    batch_id = (await caller.batch(1))["id"]
    waiting = asyncio.create_task(caller.data(f"{BATCHES}/{batch_id}?wait=30"))
    async with asyncio.timeout(20):
        while not caller.service.app.state.parts.watch._looks:
            await asyncio.sleep(0)
        await caller.post(f"{BATCHES}/{batch_id}/pause")
        assert (await waiting)["status"] == "paused"


async def test_who_waits_for_an_ended_batch_is_answered_at_once(caller: Caller, database: Database) -> None:
    batch_id = await reach(caller, database, "completed")
    async with asyncio.timeout(5):
        assert (await caller.data(f"{BATCHES}/{batch_id}?wait=60"))["status"] == "completed"


async def test_the_wait_ends_after_its_time_and_when_the_process_drains(caller: Caller) -> None:
    batch_id = (await caller.batch(1))["id"]
    async with asyncio.timeout(10):
        assert (await caller.data(f"{BATCHES}/{batch_id}?wait=1"))["status"] == "in_progress"
        caller.service.app.state.parts.draining.set()
        assert (await caller.data(f"{BATCHES}/{batch_id}?wait=60"))["status"] == "in_progress"


async def test_a_batch_deleted_while_somebody_waits_is_404(caller: Caller, database: Database) -> None:
    batch = await caller.batch(1)
    waiting = asyncio.create_task(caller.get(f"{BATCHES}/{batch['id']}?wait=30"))
    watch = caller.service.app.state.parts.watch
    async with asyncio.timeout(10):
        while not watch._looks:
            await asyncio.sleep(0)
        async with database.transaction() as tx:
            await tx.execute(
                "UPDATE batch SET status = 'completed', completed_at = now(), expires_at = now()"
            )
            await transitions.delete(tx, caller.tenant_id, UUID(batch["id"]))
        assert (await waiting).status_code == 404


@pytest.mark.parametrize("wait", ["-1", "61", "x", "1.5"])
async def test_the_wait_is_0_to_60_seconds(caller: Caller, wait: str) -> None:
    batch_id = (await caller.batch(1))["id"]
    assert (await caller.get(f"{BATCHES}/{batch_id}?wait={wait}")).status_code == 400


async def test_the_deadline_is_shown_as_an_instant(caller: Caller) -> None:
    batch = await caller.batch(1, deadline_seconds=60)
    created, deadline = (datetime.fromisoformat(batch[name]) for name in ("created_at", "deadline_at"))
    assert deadline - created == timedelta(seconds=60)
