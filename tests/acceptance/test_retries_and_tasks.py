"""Failed requests run again, and the list of tasks, where batch, worker, model and receiver are one."""

import orjson

from fakes.receiver import Receiver
from service import code_of
from stranger import BATCHES, Mill, Stranger

FAILS_ONCE = "[fault=status:400*1]"


async def test_only_what_failed_is_asked_again_and_each_run_is_announced(
    mill: Mill, stranger: Stranger, receiver: Receiver
) -> None:
    agent_id = await stranger.agent()
    webhook = {"url": receiver.url}
    messages = ["fine at once", f"{FAILS_ONCE} first", "fine too", f"{FAILS_ONCE} second"]
    batch = await stranger.ask(agent_id, *messages, webhook=webhook)
    first = await stranger.ended(batch["id"])
    assert (first["status"], first["completed_requests"], first["failed_requests"]) == ("completed", 2, 2)
    asked = len([one for one in mill.llm.requests if one.said in messages])

    begun = await stranger.act(batch["id"], "retry")
    assert (begun["status"], begun["run"], begun["failed_requests"]) == ("in_progress", 2, 0)
    again = await stranger.ended(batch["id"])

    assert (again["status"], again["completed_requests"], again["failed_requests"]) == ("completed", 4, 0)
    assert again["usage"]["total_calls"] == 4
    assert len([one for one in mill.llm.requests if one.said in messages]) == asked + 2
    result = await stranger.data(f"{BATCHES}/{batch['id']}/results/req-1")
    assert (result["status"], result["response_content"]) == ("success", f"You said: {messages[1]}")
    assert [(one["run"], one["attempt"], one["error"]["type"]) for one in result["attempts"]] == [
        (1, 1, "upstream_rejected")
    ]
    one, two = [orjson.loads(received.body) for received in await receiver.until(2)]
    assert (one["data"]["failed_requests"], two["data"]["failed_requests"]) == (2, 0)
    assert one["id"] != two["id"]
    assert code_of(await stranger.post(f"{BATCHES}/{batch['id']}/retry"), 400) == "nothing_to_retry"


async def test_a_chat_goes_on_with_the_retried_message(stranger: Stranger) -> None:
    agent_id = await stranger.agent()
    begun = await stranger.ask(agent_id, "hello")
    await stranger.ended(begun["id"])
    [result] = await stranger.results(begun["id"])
    history_id = result["history_id"]
    said = [f"{FAILS_ONCE} {history_id} one", "two"]
    batch = await stranger.ask(agent_id, *[{"message": one, "history_id": history_id} for one in said])
    assert (await stranger.ended(batch["id"]))["failed_requests"] == 1

    await stranger.act(batch["id"], "retry")
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 2

    messages = await stranger.data(f"/api/v1/chats/{history_id}/messages")
    assert [one["content"] for one in messages if one["role"] == "user"] == ["hello", "two", said[0]]
    [again, _] = await stranger.results(batch["id"])
    assert (again["history_id"], again["status"]) == (history_id, "success")


async def test_a_cancelled_batch_is_run_after_all(stranger: Stranger) -> None:
    batch = await stranger.scripted(*[{}] * 300, start_paused=True)
    await stranger.act(batch["id"], "cancel")
    assert (await stranger.ended(batch["id"]))["cancelled_requests"] == 300
    await stranger.act(batch["id"], "retry")
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["completed_requests"], ended["cancelled_requests"]) == (
        "completed",
        300,
        0,
    )


async def test_a_batch_of_bad_requests_alone_tells_its_webhook(
    stranger: Stranger, receiver: Receiver
) -> None:
    batch = await stranger.scripted(
        {"sleep_seconds": -1}, {"do": "nothing"}, on_invalid="fail_items", webhook={"url": receiver.url}
    )
    assert (batch["status"], batch["failed_requests"]) == ("completed", 2)
    [received] = await receiver.until(1)
    assert orjson.loads(received.body)["data"]["failed_requests"] == 2


async def test_tasks_follow_their_documents_from_waiting_to_their_end(mill: Mill, stranger: Stranger) -> None:
    agent_id = await stranger.agent()
    hold = f"[hold=tasks-{agent_id}]"
    batch = await stranger.ask(
        agent_id, hold, "later", "later still", max_concurrency=1, collection="manuals"
    )
    await stranger.until(batch["id"], lambda one: one["processing_requests"] == 1)
    query = "/api/v1/tasks?collection=manuals&type=agent_message"
    body = (await stranger.get(query)).json()
    assert body["summary"] == {"total": 3, "pending": 2, "running": 1, "success": 0, "failed": 0}
    assert [one["status"] for one in body["data"]] == ["processing", "pending", "pending"]
    assert body["data"][0]["started_at"] is not None
    mill.llm.release(hold[6:-1])
    await stranger.ended(batch["id"])
    body = (await stranger.get(f"{query}&status=success")).json()
    assert body["summary"] == {"total": 3, "pending": 0, "running": 0, "success": 3, "failed": 0}
    task = await stranger.data(f"/api/v1/tasks/{body['data'][2]['id']}")
    assert (task["response_content"], task["progress"]) == ("You said: later still", 1.0)
