"""Seed 004 (b.1), behaviour by behaviour, in the order of its numbers: each once, as its clients meet it.

The corners of each are in tests/api, tests/engine and tests/webhooks.
"""

import asyncio
import runpy
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from dialects.conftest import caller, service, settings
from fakes.receiver import Received, Receiver, status
from stranger import BATCHES, Mill, Stranger, adds_up, arrive

__all__ = ["caller", "service", "settings"]

KEYS = ["id", "status", "agent_id", "total_requests", "completed_requests", "failed_requests", "created_at",
        "completed_at", "cancelled_at"]  # fmt: skip
RESULT_KEYS = ["custom_id", "status", "response_content", "response_usage", "error_code", "error_message", "history_id",
               "conversation_id", "processed_at"]  # fmt: skip
PAGE_KEYS = ["limit", "offset", "total_records", "total_pages", "current_page", "next_page", "prev_page"]
ONE = [{"custom_id": "a", "message": "One"}]
_NUMBERS = count()


@pytest.fixture
async def agent(stranger: Stranger) -> str:
    return await stranger.agent()


def held() -> str:
    """A name for calls that the model does not answer before `release`."""
    return f"seed-004-{next(_NUMBERS)}"


async def running(stranger: Stranger, agent: str, name: str, *, waiting: int = 2, **more: Any) -> str:
    """The id of a batch whose first request runs and is held; so many wait for it."""
    texts = [f"[hold={name}]", *(f"waits {n}" for n in range(waiting))]
    batch = await stranger.ask(agent, *texts, max_concurrency=1, **more)
    await stranger.until(batch["id"], lambda one: one["processing_requests"] == 1)
    return str(batch["id"])


async def refused(stranger: Stranger, body: dict[str, Any]) -> list[str]:
    """Where it is wrong; nothing of it was stored."""
    answer = await stranger.post(BATCHES, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_code"] != 0
    assert (await stranger.get(BATCHES)).json()["pagination"]["total_records"] == 0
    return [one["pointer"] for one in answer.json()["error"]["errors"]]


# --- create ---------------------------------------------------------------------------------------------------


async def test_1_a_create_is_a_202_with_the_nine_keys_in_an_envelope(stranger: Stranger, agent: str) -> None:
    answer = await stranger.post(BATCHES, {"agent_id": agent, "requests": ONE})
    body = answer.json()
    assert (answer.status_code, body["message"], body["error_code"]) == (202, None, 0)
    assert list(body["data"])[:9] == KEYS
    assert (UUID(body["data"]["id"]), body["data"]["agent_id"]) == (UUID(body["data"]["id"]), agent)


async def test_2_it_is_in_progress_at_once_with_nothing_counted(stranger: Stranger, agent: str) -> None:
    batch = await stranger.ask(agent, "One", "Two")
    assert [batch[key] for key in KEYS if key not in ("id", "agent_id", "created_at")] == [
        "in_progress", 2, 0, 0, None, None,
    ]  # fmt: skip


async def test_3_every_agent_must_be_published_or_nothing_is_stored(stranger: Stranger, agent: str) -> None:
    draft = await stranger.agent(publish=False)
    for unknown in (draft, str(uuid4())):
        assert await refused(stranger, {"agent_id": unknown, "requests": ONE}) == ["/agent_id"]
        overriding = {"custom_id": "b", "message": "Two", "agent_id": unknown}
        assert await refused(stranger, {"agent_id": agent, "requests": [*ONE, overriding]}) == [
            "/requests/1/agent_id"
        ]


async def test_4_a_batch_has_1_to_1000_requests(stranger: Stranger, agent: str) -> None:
    requests = [{"custom_id": str(n), "message": "One"} for n in range(1001)]
    for wrong in ([], requests):
        assert await refused(stranger, {"agent_id": agent, "requests": wrong}) == ["/requests"]
    made = await stranger.make(agent_id=agent, requests=requests[:1000], start_paused=True)
    assert made["total_requests"] == 1000


async def test_5_a_custom_id_has_1_to_256_characters_and_is_unique_in_its_batch(
    stranger: Stranger, agent: str
) -> None:
    for wrong in ({}, {"custom_id": ""}, {"custom_id": "x" * 257}, {"custom_id": 5}):
        body = {"agent_id": agent, "requests": [{"message": "One"} | wrong]}
        assert await refused(stranger, body) == ["/requests/0/custom_id"]
    assert await refused(stranger, {"agent_id": agent, "requests": ONE * 2}) == ["/requests/1/custom_id"]
    named = [{"custom_id": one, "message": "One"} for one in ("a", "A", "x" * 256)]
    for _ in range(2):
        batch = await stranger.make(agent_id=agent, requests=named, start_paused=True)
        shown = [one["custom_id"] for one in await stranger.results(batch["id"])]
        assert shown == ["a", "A", "x" * 256]


async def test_6_a_message_is_text_that_says_something(stranger: Stranger, agent: str) -> None:
    for wrong in ({}, {"message": ""}, {"message": " \n"}, {"message": None}, {"message": 5}):
        body = {"agent_id": agent, "requests": [{"custom_id": "a"} | wrong]}
        assert await refused(stranger, body) == ["/requests/0/message"]


async def test_7_user_name_files_and_chat_are_optional_and_checked(stranger: Stranger, agent: str) -> None:
    for name, wrong in (
        ("name", "x" * 257),
        ("attached_file_uuids", ["a"]),
        ("history_id", "a"),
        ("history_id", 0),
    ):
        [pointer] = await refused(stranger, {"agent_id": agent, "requests": [ONE[0] | {name: wrong}]})
        assert pointer.startswith(f"/requests/0/{name}")
    file_id = await stranger.upload(b"A mill is turned by water.")
    whole = {"external_user_id": "user_1", "name": "x" * 256, "attached_file_uuids": [file_id]}
    batch = await stranger.ask(agent, {"message": "One", **whole})
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 1


async def test_8_a_webhook_is_https_with_events_of_the_three_and_a_secret_of_255(caller: Any) -> None:
    async def made(**webhook: Any) -> Any:
        given = {
            "processor": "noop",
            "requests": [{"custom_id": "a", "input": {"text": ""}}],
            "webhook": webhook,
        }
        return await caller.post(BATCHES, given)

    url = "https://example.com/hook"
    for wrong in ({}, {"url": "http://example.com/hook"}, {"url": url, "events": ["done"]},
                  {"url": url, "secret": "x" * 256}):  # fmt: skip
        assert (await made(**wrong)).status_code == 400, wrong
    shown = (await made(url=url, secret="x" * 255)).json()["data"]["webhook"]
    assert shown["events"] == ["completed", "failed"]
    every = (await made(url=url, events=["completed", "failed", "cancelled"])).json()["data"]["webhook"]
    assert every["events"] == ["completed", "failed", "cancelled"]
    without = await caller.post(
        BATCHES, {"processor": "noop", "requests": [{"custom_id": "a", "input": {"text": ""}}]}
    )
    assert without.json()["data"]["webhook"] is None


async def test_9_a_create_answers_before_any_request_is_done(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    batch = await stranger.ask(agent, f"[hold={name}]")
    assert (batch["status"], batch["completed_requests"]) == ("in_progress", 0)
    mill.llm.release(name)
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 1


# --- list -----------------------------------------------------------------------------------------------------


async def three(stranger: Stranger) -> list[str]:
    """Ids, newest first, of two completed batches and a paused one."""
    made = [await stranger.make(processor="noop", requests=[{"custom_id": "a", "input": {"text": ""}}],
                                start_paused=n == 2) for n in range(3)]  # fmt: skip
    for batch in made[:2]:
        await stranger.ended(batch["id"])
    return [batch["id"] for batch in reversed(made)]


async def test_10_a_list_is_of_50_from_the_first_and_takes_the_five_statuses(stranger: Stranger) -> None:
    await three(stranger)
    page = (await stranger.get(BATCHES)).json()["pagination"]
    assert (page["limit"], page["offset"], page["total_records"]) == (50, 0, 3)
    for known in ("in_progress", "completed", "failed", "cancelling", "cancelled"):
        found = await stranger.data(f"{BATCHES}?status={known}&limit=1000")
        assert len(found) == (2 if known == "completed" else 0)
    for wrong in ("limit=0", "limit=1001", "limit=-1", "offset=-1", "status=done", "limit=a"):
        assert (await stranger.get(f"{BATCHES}?{wrong}")).status_code == 400


async def test_11_pagination_has_its_seven_fields_and_absolute_links(mill: Mill, stranger: Stranger) -> None:
    await three(stranger)
    pages = [(await stranger.get(f"{BATCHES}?limit=2&offset={n}")).json()["pagination"] for n in (0, 2)]
    assert [list(page)[:7] for page in pages] == [PAGE_KEYS] * 2
    assert [(page["total_pages"], page["current_page"]) for page in pages] == [(2, 1), (2, 2)]
    assert (pages[0]["prev_page"], pages[1]["next_page"]) == (None, None)
    assert pages[0]["next_page"].startswith(f"{mill.url}{BATCHES}?")
    assert (await stranger.get(pages[0]["next_page"])).json()["pagination"] == pages[1]


async def test_12_links_keep_the_filters(stranger: Stranger) -> None:
    ids = await three(stranger)
    first = (await stranger.get(f"{BATCHES}?limit=1&status=completed")).json()
    second = (await stranger.get(first["pagination"]["next_page"])).json()
    assert [one["id"] for one in first["data"] + second["data"]] == ids[1:]
    assert second["pagination"]["next_page"] is None
    assert (await stranger.get(second["pagination"]["prev_page"])).json() == first


async def test_13_a_list_is_of_the_keys_tenant_alone_newest_first(mill: Mill, stranger: Stranger) -> None:
    ids = await three(stranger)
    assert [one["id"] for one in await stranger.data(BATCHES)] == ids
    assert await (await arrive(mill)).data(BATCHES) == []


# --- get ------------------------------------------------------------------------------------------------------


async def test_14_counts_are_live_and_completed_are_the_successes(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    batch = await stranger.ask(agent, "One", "[fault=status:400]", f"[hold={name}]")
    amid = await stranger.until(
        batch["id"], lambda one: one["failed_requests"] + one["completed_requests"] == 2
    )
    assert (amid["status"], amid["completed_requests"], amid["failed_requests"]) == ("in_progress", 1, 1)
    mill.llm.release(name)
    done = await stranger.ended(batch["id"])
    assert (done["status"], done["completed_requests"], done["failed_requests"]) == ("completed", 2, 1)
    assert adds_up(amid)
    assert adds_up(done)


async def test_15_unknown_and_foreign_batches_are_the_same_404(mill: Mill, stranger: Stranger) -> None:
    [batch_id, *_] = await three(stranger)
    other = await arrive(mill)
    for path in ("", "/results"):
        foreign, unknown = [await other.get(f"{BATCHES}/{one}{path}") for one in (batch_id, uuid4())]
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json()["message"] == unknown.json()["message"]
        assert foreign.json()["error_code"] != 0
    assert (await other.post(f"{BATCHES}/{batch_id}/cancel")).status_code == 404


async def test_16_a_batch_ends_in_one_of_three_words_whatever_ended_it(
    mill: Mill, stranger: Stranger
) -> None:
    batch = await stranger.scripted({}, start_paused=True)
    assert batch["status"] == "paused"  # polled on by who knows three ends only
    async with mill.database.connection() as connection:
        for table, column in (("batch", "id"), ("batch_schedule", "batch_id")):
            statement = f"UPDATE {table} SET deadline_at = now() WHERE {column} = $1"
            await connection.execute(statement, UUID(batch["id"]))
    assert (await stranger.ended(batch["id"]))["status"] == "failed"


# --- results --------------------------------------------------------------------------------------------------


async def test_17_results_are_there_at_any_time_and_in_every_state(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    batch_id = await running(stranger, agent, name, waiting=1)
    found = await stranger.results(batch_id)
    assert [(one["status"], one["response_content"], one["processed_at"]) for one in found] == [
        ("processing", None, None), ("pending", None, None),
    ]  # fmt: skip
    mill.llm.release(name)
    await stranger.ended(batch_id)
    assert len(await stranger.results(batch_id, "?status=success&limit=1000")) == 2
    for none in ("pending", "processing", "failed"):
        assert await stranger.results(batch_id, f"?status={none}") == []
    for wrong in ("status=done", "limit=1001", "limit=0", "offset=-1"):
        assert (await stranger.get(f"{BATCHES}/{batch_id}/results?{wrong}")).status_code == 400


async def test_18_a_result_has_the_nine_keys(stranger: Stranger, agent: str) -> None:
    batch = await stranger.ask(agent, "[say=Fine.]", "[fault=status:400]")
    await stranger.ended(batch["id"])
    good, bad = await stranger.results(batch["id"])
    assert list(good)[:9] == list(bad)[:9] == RESULT_KEYS
    assert (good["response_content"], good["error_code"], good["error_message"]) == ("Fine.", None, None)
    assert (bad["response_content"], bad["response_usage"]) == (None, None)
    assert (bad["error_code"], bool(bad["error_message"])) == (500, True)


async def test_19_usage_adds_up_call_by_call(stranger: Stranger, agent: str) -> None:
    batch = await stranger.ask(agent, "One")
    await stranger.ended(batch["id"])
    [result] = await stranger.results(batch["id"])
    usage = result["response_usage"]
    assert sorted(usage) == ["main_response", "tool_calls", "total_calls", "total_completion_tokens",
                             "total_prompt_tokens", "total_tokens"]  # fmt: skip
    calls = [*usage["tool_calls"], usage["main_response"]]
    assert {tuple(sorted(one)) for one in calls} == {
        ("call_type", "completion_tokens", "model", "prompt_tokens", "total_tokens")
    }
    assert usage["total_calls"] == len(calls)
    for name in ("total_tokens", "prompt_tokens", "completion_tokens"):
        assert usage[f"total_{name.removeprefix('total_')}"] == sum(one[name] for one in calls) > 0
    assert usage["total_tokens"] == usage["total_prompt_tokens"] + usage["total_completion_tokens"]


async def test_20_error_codes_are_four(stranger: Stranger, agent: str) -> None:
    batch = await stranger.ask(
        agent, "[fault=status:400]", "[fault=status:401]", "[fault=status:500]", max_attempts=1
    )
    await stranger.ended(batch["id"])
    assert {one["error_code"] for one in await stranger.results(batch["id"])} <= {400, 408, 499, 500}


async def test_21_results_are_in_the_order_of_the_requests(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    batch = await stranger.ask(agent, f"[hold={name}]", "One", "Two")
    await stranger.until(batch["id"], lambda one: one["completed_requests"] == 2)
    mill.llm.release(name)
    await stranger.ended(batch["id"])
    assert [one["custom_id"] for one in await stranger.results(batch["id"])] == ["req-0", "req-1", "req-2"]


async def test_22_results_are_paged_as_lists_are(stranger: Stranger) -> None:
    batch = await stranger.scripted({}, {}, {})
    await stranger.ended(batch["id"])
    first = (await stranger.get(f"{BATCHES}/{batch['id']}/results?limit=2&status=success")).json()
    assert list(first["pagination"])[:7] == PAGE_KEYS
    rest = (await stranger.get(first["pagination"]["next_page"])).json()
    assert [one["custom_id"] for one in first["data"] + rest["data"]] == ["req-0", "req-1", "req-2"]


async def test_23_a_chat_goes_on_under_its_history_id_one_request_at_a_time(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    first = await stranger.ask(agent, "One")
    await stranger.ended(first["id"])
    history_id = (await stranger.results(first["id"]))[0]["history_id"]
    name = held()
    chat = [{"message": text, "history_id": history_id} for text in (f"[hold={name}]", "Three")]
    batch = await stranger.ask(agent, *chat, "of no chat")
    await stranger.until(batch["id"], lambda one: one["completed_requests"] == 1)
    states = [one["status"] for one in await stranger.results(batch["id"])]
    assert states == ["processing", "pending", "success"]
    mill.llm.release(name)
    await stranger.ended(batch["id"])
    assert [one["history_id"] for one in (await stranger.results(batch["id"]))[:2]] == [history_id] * 2


# --- cancel ---------------------------------------------------------------------------------------------------


async def test_24_a_cancel_is_a_202_that_says_cancelling(stranger: Stranger) -> None:
    batch = await stranger.scripted(
        {}, start_paused=True
    )  # nothing is in flight, and it is told all the same
    answer = await stranger.post(f"{BATCHES}/{batch['id']}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["data"]["status"], answer.json()["data"]["cancelled_at"]) == ("cancelling", None)
    assert (await stranger.ended(batch["id"]))["cancelled_at"] is not None


async def test_25_only_what_is_in_progress_can_be_cancelled(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    batch_id = await running(stranger, agent, name)
    await stranger.act(batch_id, "cancel")
    for _ in range(2):  # while it is cancelling, and once it is cancelled
        again = await stranger.post(f"{BATCHES}/{batch_id}/cancel")
        assert (again.status_code, again.json()["error_code"] != 0) == (409, True)
        mill.llm.release(name)
        await stranger.ended(batch_id)


async def test_26_what_runs_is_counted_as_it_ends_and_what_waited_is_499(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    batch_id = await running(stranger, agent, name)
    await stranger.act(batch_id, "cancel")
    amid = await stranger.until(batch_id, lambda one: one["pending_requests"] == 0)
    assert (amid["status"], amid["processing_requests"], amid["cancelled_at"]) == ("cancelling", 1, None)
    mill.llm.release(name)
    done = await stranger.ended(batch_id)
    assert (done["status"], done["completed_requests"], done["failed_requests"]) == ("cancelled", 1, 2)
    codes = [(one["status"], one["error_code"]) for one in await stranger.results(batch_id)]
    assert codes == [("success", None), ("failed", 499), ("failed", 499)]


async def test_27_nothing_starts_after_a_cancel_and_what_fails_keeps_its_own_code(
    mill: Mill, stranger: Stranger, agent: str
) -> None:
    name = held()
    texts = (f"[hold={name}] [fault=status:500]", f"later, {name}")
    batch = await stranger.ask(agent, *texts, max_concurrency=1)
    await stranger.until(batch["id"], lambda one: one["processing_requests"] == 1)
    await stranger.act(batch["id"], "cancel")
    mill.llm.release(name)
    await stranger.ended(batch["id"])
    assert [one["error_code"] for one in await stranger.results(batch["id"])] == [500, 499]
    assert len([one for one in mill.llm.requests if name in one.said]) == 1


async def cancelled(stranger: Stranger, **webhook: Any) -> str:
    batch = await stranger.scripted({}, start_paused=True, webhook=webhook)
    await stranger.act(batch["id"], "cancel")
    await stranger.ended(batch["id"])
    return str(batch["id"])


async def test_28_a_cancel_is_told_to_who_asked_for_it(stranger: Stranger, receiver: Receiver) -> None:
    await cancelled(stranger, url=f"{receiver.url}/not")
    asked = await cancelled(stranger, url=f"{receiver.url}/asked", events=["cancelled"])
    [told] = await receiver.until(1)
    assert (told.path, orjson.loads(told.body)["data"]["id"]) == ("/hook/asked", asked)
    assert orjson.loads(told.body)["event"] == "batch.cancelled"


# --- webhooks -------------------------------------------------------------------------------------------------


async def test_29_an_event_has_a_name_a_time_and_the_counts(stranger: Stranger, receiver: Receiver) -> None:
    batch = await stranger.scripted({}, {"do": "fail"}, max_attempts=1, webhook={"url": receiver.url})
    [told] = await receiver.until(1)
    body = orjson.loads(told.body)
    assert (told.method, body["event"], body["timestamp"][-1]) == ("POST", "batch.completed", "Z")
    assert body["data"] == {
        "id": batch["id"], "status": "completed", "total_requests": 2, "completed_requests": 1, "failed_requests": 1,
    }  # fmt: skip


async def test_30_the_exact_bytes_are_signed_where_there_is_a_secret(
    stranger: Stranger, receiver: Receiver
) -> None:
    verify = runpy.run_path(str(Path(__file__).parent / "seed_004" / "verify_webhook.py"))["verify_webhook"]
    for secret in ({"secret": "your-webhook-secret"}, {}):
        await stranger.scripted({}, webhook={"url": receiver.url} | secret)
        told = (await receiver.until(1 if secret else 2))[-1]
        assert ("x-codeer-signature" in told.headers) == bool(secret)
        if secret:
            stamp = told.headers["x-codeer-timestamp"]
            assert verify(told.body, told.headers["x-codeer-signature"], stamp, "your-webhook-secret")
            assert not verify(
                told.body + b" ", told.headers["x-codeer-signature"], stamp, "your-webhook-secret"
            )


async def test_31_the_timestamp_is_in_unix_seconds_of_the_attempt(
    stranger: Stranger, receiver: Receiver
) -> None:
    await stranger.scripted({}, webhook={"url": receiver.url})
    [told] = await receiver.until(1)
    assert abs(int(told.headers["x-codeer-timestamp"]) - told.at) < 60


async def test_32_an_end_is_told_once_when_it_is_true_and_a_bad_receiver_changes_nothing(
    stranger: Stranger, receiver: Receiver
) -> None:
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def look(received: Received, writer: asyncio.StreamWriter) -> None:
        seen.set_result((await stranger.get_batch(orjson.loads(received.body)["data"]["id"]))["status"])
        await status(500)(received, writer)

    receiver.behave(look, status(204))
    batch = await stranger.scripted({}, webhook={"url": receiver.url})
    async with asyncio.timeout(60):
        assert await seen == "completed"
    done = await stranger.ended(batch["id"])
    assert (done["status"], done["completed_requests"]) == ("completed", 1)
    assert len(await stranger.data(f"{BATCHES}/{batch['id']}/deliveries")) == 1
