"""Agents and processors as a caller has them: what the model was really told, and what came back over HTTP.

Seed 004, rules 3 (other agents), 7 (files, chats, names), 19 (usage) and 23 (one item of a chat at a time).
"""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from command import Command
from fakes.llm import FakeLLM
from fakes.mcp_server import McpProcess
from fakes.wire import Request
from service import problems
from stranger import BATCHES, Mill, Stranger

TOOL_TOKEN = "the-token-of-the-tools"


@pytest.fixture(scope="module")
def tools() -> Iterator[McpProcess]:
    with McpProcess("--token", TOOL_TOKEN) as process:
        yield process


def server(tools: McpProcess) -> dict[str, Any]:
    return {"name": "numbers", "url": tools.url, "headers": {"Authorization": f"Bearer {TOOL_TOKEN}"}}


def told(llm: FakeLLM, marker: str) -> list[Request]:
    """The calls to the model whose message has the marker in it."""
    return [request for request in llm.requests if marker in request.said]


# --- tools ----------------------------------------------------------------------------------------------------


async def test_an_item_makes_two_tool_calls_and_its_usage_adds_up(
    mill: Mill, stranger: Stranger, tools: McpProcess
) -> None:
    agent_id = await stranger.agent(mcp_servers=[server(tools)], model="gpt-test")
    message = 'two sums: [call=add {"a": 1, "b": 2}] [call=add {"a": 30, "b": 4}]'
    batch = await stranger.ask(agent_id, message)
    ended = await stranger.ended(batch["id"])
    [result] = await stranger.results(batch["id"])
    assert result["status"] == "success", result
    assert result["response_content"].endswith("\n1 + 2 = 3\n30 + 4 = 34")
    usage = result["response_usage"]
    calls = [*usage["tool_calls"], usage["main_response"]]
    assert [call["call_type"] for call in calls] == ["tool_call", "tool_call", "main_response"]
    assert {call["model"] for call in calls} == {"gpt-test"}
    assert usage["total_calls"] == len(calls) == len(told(mill.llm, message))
    for kind in ("total", "prompt", "completion"):
        whole = "total_tokens" if kind == "total" else f"total_{kind}_tokens"
        assert usage[whole] == sum(call[f"{kind}_tokens"] for call in calls) > 0
    assert usage["total_tokens"] == usage["total_prompt_tokens"] + usage["total_completion_tokens"]
    assert all(one["total_tokens"] == one["prompt_tokens"] + one["completion_tokens"] for one in calls)
    for name in ("total_calls", "total_tokens", "total_prompt_tokens", "total_completion_tokens"):
        assert ended["usage"][name] == usage[name]


async def test_headers_of_tool_servers_are_never_shown(stranger: Stranger, tools: McpProcess) -> None:
    agent_id = await stranger.agent(mcp_servers=[server(tools)])
    for path in ("", f"/{agent_id}", f"/{agent_id}/versions"):
        shown = await stranger.get(f"/api/v1/agents{path}")
        assert '"header_names":["Authorization"]' in shown.text
        assert TOOL_TOKEN not in shown.text


# As in an installation without the extra: Python finds no such package.
WITHOUT_MCP = "import sys; sys.modules['mcp'] = None; from gristmill.__main__ import main; main()"


async def test_an_agent_with_tools_cannot_be_published_without_the_extra(
    mill: Mill, stranger: Stranger, tools: McpProcess
) -> None:
    agent_id = await stranger.agent(mcp_servers=[server(tools)], publish=False)
    plain = await stranger.agent(publish=False)
    bare = Command(mill.command.environment, ("-c", WITHOUT_MCP), log=mill.log)

    def publish() -> list[Any]:
        with bare.serve("--no-worker") as running, running.client(stranger.key) as client:
            answers = [client.post(f"/api/v1/agents/{one}/publish") for one in (agent_id, plain)]
            assert running.stop() == 0
        return answers

    refused, published = await asyncio.to_thread(publish)
    assert problems(refused) == {"/mcp_servers": "extra_missing"}
    assert "gristmill[mcp]" in refused.json()["error"]["errors"][0]["detail"]
    assert published.status_code == 200
    assert (await stranger.data(f"/api/v1/agents/{agent_id}"))["published_version"] is None


# --- what a request may say -----------------------------------------------------------------------------------


async def test_a_request_may_name_another_agent_and_a_batch_keeps_the_versions_it_was_made_with(
    mill: Mill, stranger: Stranger
) -> None:
    cook = await stranger.agent(
        instructions="You are a cook.", model="cook-1", parameters={"temperature": 0.5}
    )
    poet = await stranger.agent(instructions="You are a poet.")
    batch = await stranger.ask(
        cook, "agents: default", {"message": "agents: other", "agent_id": poet}, start_paused=True
    )
    changed = await stranger.send(
        "PATCH", f"/api/v1/agents/{cook}", json={"instructions": "You are a thief."}
    )
    assert changed.json()["data"]["version"] == 2
    await stranger.post(f"/api/v1/agents/{cook}/publish")
    await stranger.act(batch["id"], "resume")
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 2
    [first], [second] = told(mill.llm, "agents: default"), told(mill.llm, "agents: other")
    assert first.body["messages"][0] == {"role": "system", "content": "You are a cook."}
    assert (first.body["model"], first.body["temperature"]) == ("cook-1", 0.5)
    assert second.body["messages"][0]["content"] == "You are a poet."
    assert second.body["model"] == "fake-model"


async def test_an_attached_text_file_reaches_the_model(mill: Mill, stranger: Stranger) -> None:
    file_id = await stranger.upload("Die Mühle schließt um sechs.".encode(), "hours.txt")
    request = {"message": "attached: when?", "attached_file_uuids": [file_id]}
    batch = await stranger.ask(await stranger.agent(), request)
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 1
    [asked] = [one for one in mill.llm.requests if "attached: when?" in str(one.body)]
    assert "Die Mühle schließt um sechs." in str(asked.body["messages"])
    assert "hours.txt" in str(asked.body["messages"])


async def test_a_failing_request_is_tried_as_often_as_the_batch_says_and_tells_each_attempt(
    mill: Mill, stranger: Stranger
) -> None:
    batch = await stranger.ask(await stranger.agent(), "attempts: [fault=status:500]", max_attempts=2)
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["failed_requests"]) == ("completed", 1)
    first, second = told(mill.llm, "attempts: ")
    assert second.at > first.at
    detail = await stranger.data(f"{BATCHES}/{batch['id']}/results/req-0")
    assert (detail["error_code"], detail["attempt"], len(detail["attempts"])) == (500, 2, 1)
    assert detail["error"]["upstream_status"] == 500
    assert mill.command.environment["GRISTMILL_LLM_API_KEY"] not in str(detail)  # which the endpoint repeats


async def test_a_bad_request_to_the_model_fails_at_once_and_the_others_go_on(
    mill: Mill, stranger: Stranger
) -> None:
    batch = await stranger.ask(await stranger.agent(), "rejected: [fault=status:400]", "accepted: fine")
    ended = await stranger.ended(batch["id"])
    assert (ended["completed_requests"], ended["failed_requests"]) == (1, 1)
    assert len(told(mill.llm, "rejected: ")) == 1
    failed = (await stranger.results(batch["id"], "?status=failed"))[0]
    assert failed["error_message"] == failed["error"]["message"]
    assert (failed["error"]["retryable"], failed["response_content"]) == (False, None)


# --- chats ----------------------------------------------------------------------------------------------------


async def test_two_requests_of_a_chat_run_one_after_the_other_and_the_second_sees_the_first(
    mill: Mill, stranger: Stranger
) -> None:
    agent_id = await stranger.agent()
    begun = await stranger.ask(
        agent_id, {"message": "chat: hello", "name": "Ann's chat", "external_user_id": "user_123"}
    )
    await stranger.ended(begun["id"])
    [opening] = await stranger.results(begun["id"])
    history_id = opening["history_id"]
    assert isinstance(history_id, int)

    said = ["chat: second [hold=chat]", "chat: third", "chat: fourth"]
    batch = await stranger.ask(agent_id, *({"message": one, "history_id": history_id} for one in said))
    held = await stranger.until(batch["id"], lambda one: one["processing_requests"] == 1)
    assert held["pending_requests"] == 2
    assert held["waiting_reason"] == "another item of the same chat is running"
    later = await stranger.ask(agent_id, "chat: of another")
    await stranger.ended(later["id"])  # others do not wait for it
    assert told(mill.llm, "chat: third") == []
    mill.llm.release("chat")
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 3

    results = [opening, *await stranger.results(batch["id"])]
    assert {one["history_id"] for one in results} == {history_id}
    assert all(a["conversation_id"] < b["conversation_id"] for a, b in pairwise(results))
    expected = [
        message
        for text, one in zip(["chat: hello", *said], results, strict=True)
        for message in (("user", text), ("assistant", one["response_content"]))
    ]
    [last] = told(mill.llm, "chat: fourth")
    assert [(one["role"], one["content"]) for one in last.body["messages"]] == expected[:-1]
    kept = await stranger.data(f"/api/v1/chats/{history_id}/messages")
    assert [(one["role"], one["content"]) for one in kept] == expected
    assert [one["conversation_id"] for one in kept[::2]] == [one["conversation_id"] for one in results]


async def test_name_and_user_are_kept_on_the_chat_and_find_it(stranger: Stranger) -> None:
    ann = {"message": "hello", "name": "Ann & Co", "external_user_id": "user_123"}
    bob = {"message": "hello", "name": "Bob", "external_user_id": "user_456"}
    batch = await stranger.ask(await stranger.agent(), ann, bob)
    await stranger.ended(batch["id"])
    first, second = await stranger.results(batch["id"])
    for result, said in ((first, ann), (second, bob)):
        chat = await stranger.data(f"/api/v1/chats/{result['history_id']}")
        assert (chat["name"], chat["external_user_id"]) == (said["name"], said["external_user_id"])
        for name in ("name", "external_user_id"):
            found = await stranger.data("/api/v1/chats", params={name: said[name]})
            assert [one["history_id"] for one in found] == [result["history_id"]]


# --- other processors -----------------------------------------------------------------------------------------


async def test_completion_passes_embeddings_through(mill: Mill, stranger: Stranger) -> None:
    inputs = [{"input": f"embed: {n}", "dimensions": 8} for n in range(3)]
    requests = [{"custom_id": str(n), "input": one} for n, one in enumerate(inputs)]
    batch = await stranger.make(processor="completion", config={"path": "/embeddings"}, requests=requests)
    ended = await stranger.ended(batch["id"])
    assert ended["completed_requests"] == 3
    asked = [one for one in mill.llm.requests if one.path == "/v1/embeddings" and "embed: " in one.said]
    assert sorted(one.said for one in asked) == [one["input"] for one in inputs]
    assert all(one.body == {"model": "fake-model", "input": one.said, "dimensions": 8} for one in asked)
    for result in await stranger.results(batch["id"]):
        assert result["response_content"] is None
        assert len(result["output"]["data"][0]["embedding"]) == 8
        used = result["output"]["usage"]["prompt_tokens"]
        assert (result["response_usage"]["total_tokens"], result["response_usage"]["total_calls"]) == (
            used,
            1,
        )


async def test_a_processor_of_another_package_is_listed_checks_its_input_and_runs(stranger: Stranger) -> None:
    listed = {one["name"]: one for one in await stranger.data("/api/v1/processors")}
    assert listed.keys() >= {"agent_message", "completion", "noop", "scripted"}
    assert listed["scripted"]["input_schema"]["properties"]["retries"]["minimum"] == 0
    assert "do" in listed["scripted"]["config_schema"]["properties"]
    assert await stranger.data("/api/v1/processors/scripted") == listed["scripted"]

    good = {"custom_id": "good", "input": {"answer": {"the": "answer"}}}
    bad = [{"custom_id": "bad", "input": {"retries": -1}}, {"custom_id": "none", "input": {"color": "red"}}]
    refused = await stranger.post(BATCHES, {"processor": "scripted", "requests": [good, *bad]})
    assert problems(refused) == {
        "/requests/1/input/retries": "greater_than_equal",
        "/requests/2/input/color": "extra_forbidden",
    }
    assert (await stranger.get(BATCHES)).json()["pagination"]["total_records"] == 0

    batch = await stranger.make(processor="scripted", requests=[good])
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 1
    [result] = await stranger.results(batch["id"])
    assert (result["custom_id"], result["output"]) == ("good", {"the": "answer"})
