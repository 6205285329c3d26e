"""Every turn that a batch can take, and every one it cannot, with items that really run meanwhile. Seed 004, rules 24 to 27.

What runs is in the hands of the test: the model answers `[hold=NAME]` when it is told to. Threshold and budget come later.
"""

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import orjson
import pytest

from fakes.receiver import Receiver
from service import code_of
from stranger import BATCHES, Mill, Stranger

_NUMBERS = count()


class Held:
    """A name for calls that the model does not answer before the test says so."""

    def __init__(self, mill: Mill) -> None:
        self.mill = mill
        self.name = f"transition-{next(_NUMBERS)}"

    @property
    def message(self) -> str:
        return f"[hold={self.name}]"

    def release(self) -> None:
        self.mill.llm.release(self.name)


@pytest.fixture
async def held(mill: Mill) -> AsyncIterator[Held]:
    held = Held(mill)
    yield held
    held.release()


async def running(stranger: Stranger, held: Held, *more: str, **fields: Any) -> str:
    """The id of a batch of four whose first requests run and are held, while the others wait for them."""
    messages = [held.message, *(f"{one} {held.message}" for one in more)]
    waiting = [f"not started {n}" for n in range(4 - len(messages))]
    batch = await stranger.ask(
        await stranger.agent(), *messages, *waiting, max_concurrency=len(messages), **fields
    )
    await stranger.until(batch["id"], lambda one: one["processing_requests"] == len(messages))
    return str(batch["id"])


async def codes(stranger: Stranger, batch_id: str) -> list[Any]:
    """Of each result, its error code, or its status if it has none."""
    return [one["error_code"] or one["status"] for one in await stranger.results(batch_id)]


# --- what is allowed ----------------------------------------------------------------------------------------------


async def test_pause_lets_what_runs_finish_and_starts_nothing_until_resume(
    mill: Mill, stranger: Stranger, held: Held
) -> None:
    batch_id = await running(stranger, held)
    paused = await stranger.act(batch_id, "pause")
    assert (paused["status"], paused["waiting_reason"], paused["processing_requests"]) == (
        "paused",
        "paused",
        1,
    )
    held.release()
    quiet = await stranger.until(batch_id, lambda one: one["completed_requests"] == 1)
    assert (quiet["status"], quiet["pending_requests"], quiet["processing_requests"]) == ("paused", 3, 0)
    # As a sign that the worker has looked for work since: what came later has run.
    later = await stranger.scripted({})
    await stranger.ended(later["id"])
    assert await codes(stranger, batch_id) == ["success", "pending", "pending", "pending"]
    resumed = await stranger.act(batch_id, "resume")
    assert (resumed["status"], resumed["completed_requests"]) == ("in_progress", 1)
    ended = await stranger.ended(batch_id)
    assert (ended["status"], ended["completed_requests"], ended["cancelled_at"]) == ("completed", 4, None)


async def test_a_paused_batch_completes_when_its_last_request_ends(stranger: Stranger, held: Held) -> None:
    batch_id = await running(stranger, held, "b", "c", "d")
    assert (await stranger.act(batch_id, "pause"))["status"] == "paused"
    held.release()
    ended = await stranger.ended(batch_id)
    assert (ended["status"], ended["completed_requests"], ended["progress"]) == ("completed", 4, 1.0)


async def test_cancel_lets_what_runs_finish_with_its_own_result_and_ends_the_rest(
    mill: Mill, stranger: Stranger, held: Held
) -> None:
    batch_id = await running(stranger, held, "[fault=status:500]")
    answer = await stranger.act(batch_id, "cancel")
    assert (answer["status"], answer["cancelled_at"]) == ("cancelling", None)
    waiting = await stranger.until(batch_id, lambda one: one["pending_requests"] == 0)
    assert (waiting["status"], waiting["processing_requests"]) == ("cancelling", 2)
    assert (waiting["failed_requests"], waiting["cancelled_requests"], waiting["progress"] < 1) == (
        2,
        2,
        True,
    )
    held.release()
    ended = await stranger.ended(batch_id)
    assert (ended["status"], ended["completed_at"]) == ("cancelled", None)
    assert ended["cancelled_at"] is not None
    assert (ended["completed_requests"], ended["failed_requests"]) == (1, 3)
    assert await codes(stranger, batch_id) == ["success", 500, 499, 499]
    failed = (await stranger.results(batch_id))[1]
    assert (failed["attempt"], failed["error"]["retryable"]) == (1, True)  # it would have been tried again
    asked = [one.said for one in mill.llm.requests if held.name in one.said]
    assert len(asked) == 2


async def test_a_paused_batch_with_nothing_running_is_cancelled_by_way_of_cancelling(
    stranger: Stranger,
) -> None:
    batch = await stranger.scripted(*[{}] * 1000, start_paused=True)
    assert batch["status"] == "paused"
    assert (await stranger.act(batch["id"], "cancel"))["status"] == "cancelling"
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["failed_requests"], ended["cancelled_requests"]) == (
        "cancelled",
        1000,
        1000,
    )
    results = await stranger.results(batch["id"], "?error_code=499&status=failed&limit=1000")
    assert len(results) == 1000


async def test_a_batch_whose_requests_all_fail_is_completed(stranger: Stranger) -> None:
    batch = await stranger.scripted({"do": "fail"}, {"do": "raise"}, max_attempts=1)
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["completed_requests"], ended["failed_requests"]) == ("completed", 0, 2)
    assert ended["completed_at"] is not None


async def test_a_batch_fails_at_its_deadline_once_what_runs_has_ended(
    stranger: Stranger, held: Held, receiver: Receiver
) -> None:
    webhook = {"url": receiver.url}
    batch_id = await running(stranger, held, deadline_seconds=10, webhook=webhook)
    paused = await stranger.scripted({}, {}, deadline_seconds=10, start_paused=True)
    draining = await stranger.until(batch_id, lambda one: one["pending_requests"] == 0)
    assert (draining["status"], draining["waiting_reason"]) == ("in_progress", "draining")
    assert (draining["processing_requests"], draining["expired_requests"]) == (1, 3)
    for action in ("pause", "resume", "cancel"):
        refused = await stranger.post(f"{BATCHES}/{batch_id}/{action}")
        assert code_of(refused, 409) == "wrong_status"
        assert "'in_progress' and draining" in refused.json()["message"]
    assert receiver.received == []
    held.release()
    ended = await stranger.ended(batch_id)
    assert (ended["status"], ended["completed_requests"], ended["failed_requests"]) == ("failed", 1, 3)
    assert ended["completed_at"] is not None
    assert await codes(stranger, batch_id) == ["success", 408, 408, 408]
    [received] = await receiver.until(1)
    body = orjson.loads(received.body)
    assert (body["event"], body["data"]["status"], body["data"]["failed_requests"]) == (
        "batch.failed",
        "failed",
        3,
    )
    assert (await stranger.ended(paused["id"]))["status"] == "failed"
    assert await codes(stranger, paused["id"]) == [408, 408]


# --- what is not --------------------------------------------------------------------------------------------------


async def reach(stranger: Stranger, held: Held, status: str) -> str:
    """The id of a batch in that status, where it stays while the model is held."""
    if status == "completed":
        batch_id = str((await stranger.scripted({}))["id"])
    elif status == "cancelled":
        batch_id = str((await stranger.scripted({}, start_paused=True))["id"])
    else:
        batch_id = await running(stranger, held)
    action = {"paused": "pause", "cancelling": "cancel", "cancelled": "cancel"}.get(status)
    if action:
        await stranger.act(batch_id, action)
    swept = status == "cancelling"
    await stranger.until(
        batch_id, lambda one: one["status"] == status and not (swept and one["pending_requests"])
    )
    return batch_id


FORBIDDEN = {
    "in_progress": ("resume", "delete", "retry"),
    "paused": ("pause", "delete", "retry"),
    "cancelling": ("pause", "resume", "cancel", "delete", "retry"),
    "cancelled": ("pause", "resume", "cancel"),
    "completed": ("pause", "resume", "cancel"),
}  # `failed` and draining: with the deadline above, and in tests/api/test_batches.py


@pytest.mark.parametrize("status", FORBIDDEN)
async def test_what_a_status_does_not_allow_is_409_names_it_and_changes_nothing(
    stranger: Stranger, held: Held, status: str
) -> None:
    batch_id = await reach(stranger, held, status)
    before = await stranger.get_batch(batch_id)
    for action in FORBIDDEN[status]:
        method, path = ("DELETE", "") if action == "delete" else ("POST", f"/{action}")
        refused = await stranger.send(method, f"{BATCHES}/{batch_id}{path}")
        assert code_of(refused, 409) == "wrong_status"
        assert f"cannot {action} a batch with status '{status}'" in refused.json()["message"]
    after = await stranger.get_batch(batch_id)
    moving = ("throughput", "eta_seconds")
    assert {name: after[name] for name in after if name not in moving} == {
        name: before[name] for name in before if name not in moving
    }
