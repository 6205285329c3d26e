"""POST …/retry: the failed requests of an ended batch run again, and what they had failed with stays to be seen."""

from typing import Any
from uuid import UUID

import pytest

import factories
from gristmill.db import Database
from service import Caller, code_of, new_key, problems

BATCHES = "/api/v1/batches"


async def in_status(caller: Caller, database: Database, status: str) -> str:
    """The id of a batch of two in that status."""
    batch_id = str((await caller.batch(2, start_paused=status == "paused"))["id"])
    if status.startswith("cancel"):
        await caller.post(f"{BATCHES}/{batch_id}/cancel")
    if status == "failed":
        await factories.expire(database, UUID(batch_id))
    if status in ("cancelled", "failed"):
        await factories.sweep(database)
    assert (await caller.data(f"{BATCHES}/{batch_id}"))["status"] == status
    return batch_id


async def ended(caller: Caller, database: Database, *codes: int | None, **fields: Any) -> str:
    """The id of a completed batch whose requests ended with these codes; None: success."""
    batch_id = str((await caller.batch(len(codes), **fields))["id"])
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, len(codes))
    results = [
        factories.success(lease, n) if code is None else factories.failure(lease, n, code)
        for n, code in enumerate(codes)
    ]
    await factories.record(database, worker, factories.Flush({lease.id: 0}, results))
    return batch_id


async def test_the_failed_requests_run_again_and_their_attempts_are_shown(
    caller: Caller, database: Database
) -> None:
    batch_id = await ended(caller, database, 500, None, 500)
    caller.service.woken.clear()

    answer = await caller.post(f"{BATCHES}/{batch_id}/retry")

    assert answer.status_code == 202
    data = answer.json()["data"]
    assert (data["status"], data["run"], data["completed_at"], data["error"]) == (
        "in_progress",
        2,
        None,
        None,
    )
    assert (data["completed_requests"], data["failed_requests"], data["pending_requests"]) == (1, 0, 2)
    assert data["progress"] == pytest.approx(1 / 3)
    assert caller.service.woken.is_set()
    waiting = await caller.data(f"{BATCHES}/{batch_id}/results/req-0")
    assert (waiting["status"], waiting["error_code"], waiting["processed_at"]) == ("pending", None, None)
    [attempt] = waiting["attempts"]
    assert (attempt["run"], attempt["attempt"], attempt["error_code"]) == (1, 1, 500)
    assert (attempt["error"]["message"], attempt["usage"]) == ("as asked", None)
    assert attempt["ended_at"].endswith("Z")
    await factories.drain(database, await factories.make_worker(database))
    shown = await caller.data(f"{BATCHES}/{batch_id}")
    assert (shown["status"], shown["completed_requests"], shown["progress"]) == ("completed", 3, 1.0)
    assert len((await caller.data(f"{BATCHES}/{batch_id}/results/req-0"))["attempts"]) == 1
    assert (await caller.data(f"{BATCHES}/{batch_id}/results/req-1"))["attempts"] == []


@pytest.mark.parametrize(
    ("chosen", "pending"),
    [
        ({}, ["req-0", "req-1", "req-3"]),
        ({"status": "failed"}, ["req-0", "req-1", "req-3"]),
        ({"status": ["failed"], "error_codes": [400]}, ["req-1"]),
        ({"error_codes": [500, 400], "custom_ids": ["req-3", "req-2", "req-3"]}, ["req-3"]),
    ],
)
async def test_status_codes_and_custom_ids_choose(
    caller: Caller, database: Database, chosen: dict[str, Any], pending: list[str]
) -> None:
    batch_id = await ended(caller, database, 500, 400, None, 500)
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry", chosen)
    assert answer.status_code == 202
    shown = await caller.data(f"{BATCHES}/{batch_id}/results?status=pending")
    assert [one["custom_id"] for one in shown] == pending


@pytest.mark.parametrize("status", ["in_progress", "paused", "cancelling"])
async def test_a_batch_that_has_not_ended_cannot_be_retried(
    caller: Caller, database: Database, status: str
) -> None:
    batch_id = await in_status(caller, database, status)
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry", {})
    assert code_of(answer, 409) == "wrong_status"
    assert answer.json()["message"] == f"cannot retry a batch with status '{status}'"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_failed_or_cancelled_batch_can_be_run_after_all(
    caller: Caller, database: Database, status: str
) -> None:
    batch_id = await in_status(caller, database, status)
    data = (await caller.post(f"{BATCHES}/{batch_id}/retry")).json()["data"]
    assert (data["status"], data["cancelled_at"], data["error"]) == ("in_progress", None, None)
    assert (data["cancelled_requests"], data["expired_requests"], data["pending_requests"]) == (0, 0, 2)
    [attempt] = (await caller.data(f"{BATCHES}/{batch_id}/results/req-1"))["attempts"]
    assert (attempt["run"], attempt["attempt"]) == (1, 0)
    assert attempt["error"]["type"] in ("batch_cancelled", "deadline_exceeded")


async def test_nothing_to_retry_is_a_400(caller: Caller, database: Database) -> None:
    batch_id = await ended(caller, database, None, 500)
    for chosen in ({"error_codes": [408]}, {"custom_ids": ["req-0"]}):
        answer = await caller.post(f"{BATCHES}/{batch_id}/retry", chosen)
        assert code_of(answer, 400) == "nothing_to_retry"
    assert (await caller.data(f"{BATCHES}/{batch_id}"))["status"] == "completed"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"custom_ids": ["req-0", "x", "y"]}, {f"/custom_ids/{n}": "unknown_custom_id" for n in (1, 2)}),
        ({"custom_ids": []}, {"/custom_ids": "too_short"}),
        ({"custom_ids": ["x" * 257]}, {"/custom_ids/0": "string_too_long"}),
        ({"error_codes": [404]}, {"/error_codes/0": "literal_error"}),
        ({"error_codes": []}, {"/error_codes": "too_short"}),
        ({"status": "success"}, {"/status/0": "literal_error"}),
        ({"status": []}, {"/status": "too_short"}),
        ({"all": True}, {"/all": "extra_forbidden"}),
    ],
)
async def test_a_choice_that_cannot_be_is_refused(
    caller: Caller, database: Database, chosen: dict[str, Any], expected: dict[str, str]
) -> None:
    batch_id = await ended(caller, database, 500)
    assert problems(await caller.post(f"{BATCHES}/{batch_id}/retry", chosen)) == expected


async def test_retrying_needs_the_scope_to_write(caller: Caller, database: Database) -> None:
    batch_id = await ended(caller, database, 500)
    reader = await new_key(caller.service, caller.tenant_id, ["batches:read"])
    assert code_of(await reader.post(f"{BATCHES}/{batch_id}/retry"), 403) == "missing_scope"
