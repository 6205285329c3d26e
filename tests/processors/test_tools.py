"""Tools over MCP: a real server process, streamable HTTP, through the address guard."""

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest

from fakes.llm import FakeLLM
from fakes.mcp_server import McpProcess
from fakes.world import World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.net.session import HttpSession
from gristmill.processors import get, mcp_client, tools
from gristmill.processors.agent_message import AgentMessageConfig, AgentSnapshot
from gristmill.processors.conversation import MAX_ROUNDS

AGENT = UUID("018f0000-0000-7000-8000-00000000000a")
TOKEN = "the-agents-own-token"


@pytest.fixture(scope="module")
def server() -> Iterator[McpProcess]:
    with McpProcess("--token", TOKEN) as process:
        yield process


def named(server: McpProcess, name: str = "numbers", token: str = TOKEN) -> dict[str, Any]:
    return {"name": name, "url": server.url, "headers": {"Authorization": f"Bearer {token}"}}


def config(world: World, *servers: dict[str, Any], **agent: Any) -> AgentMessageConfig:
    sealed = world.vault.encrypt(orjson.dumps(servers), f"mcp:{AGENT}:2")
    given = {"mcp_servers": base64.b64encode(sealed).decode()} | agent
    snapshot = AgentSnapshot(agent_id=AGENT, version=2, name="main", **given)
    return AgentMessageConfig(agent_id=AGENT, agents={AGENT: snapshot})


async def ask(world: World, message: str, *servers: dict[str, Any], **agent: Any) -> Outcome:
    return await world.run(get("agent_message"), {"message": message}, config(world, *servers, **agent))


async def test_two_tool_calls_and_an_answer_with_sums_that_match(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    message = 'sum [call=add {"a": 1, "b": 2}] [call=add {"a": 30, "b": 4}]'
    outcome = await ask(world, message, named(server))
    assert isinstance(outcome, Success)
    assert (outcome.content or "").endswith("\n1 + 2 = 3\n30 + 4 = 34")
    assert outcome.usage is not None
    usage = outcome.usage.as_json()
    calls = [*usage["tool_calls"], usage["main_response"]]
    assert [call["call_type"] for call in calls] == ["tool_call", "tool_call", "main_response"]
    assert usage["total_calls"] == 3 == len(llm.requests)
    assert usage["total_prompt_tokens"] == sum(call["prompt_tokens"] for call in calls)
    assert usage["total_completion_tokens"] == sum(call["completion_tokens"] for call in calls)
    assert usage["total_tokens"] == sum(call["total_tokens"] for call in calls)
    assert outcome.turn is not None
    assert outcome.turn.user_message == message


async def test_the_model_gets_the_tools_and_their_results_in_its_own_form(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    await ask(world, '[call=add {"a": 1, "b": 2}]', named(server))
    first, second = (request.body for request in llm.requests)
    offered = {tool["function"]["name"]: tool["function"] for tool in first["tools"]}
    assert offered.keys() == {"add", "fail", "sleep", "repeat", "tools_odd_name", "quit"}
    assert offered["add"]["parameters"]["required"] == ["a", "b"]
    assert offered["add"]["description"] == "Adds two numbers."
    asked, result = second["messages"][-2:]
    assert asked["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert result == {"role": "tool", "tool_call_id": "call_0", "content": "1 + 2 = 3"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('fail {"why": "out of order"}', "Error: Error executing tool fail"),
        ('add {"a": "one"}', "Error"),
        ("add {not json}", "Error: the arguments are not a JSON object"),
        ("nothing", "Error: there is no tool of this name"),
        ("tools_odd_name", "numbers"),
        ('repeat {"text": "x", "times": 200000}', "[cut: 200000 characters in all]"),
        ('repeat {"text": "x", "times": 9000000}', "Error: the call failed"),
    ],
)
async def test_what_a_tool_says_is_told_to_the_model(
    world: World, llm: FakeLLM, server: McpProcess, call: str, said: str
) -> None:
    outcome = await ask(world, f"[call={call}]", named(server))
    assert isinstance(outcome, Success)
    result = llm.requests[-1].body["messages"][-1]
    assert result["role"] == "tool"
    assert said in result["content"]
    assert len(result["content"]) < tools.MAX_RESULT_CHARACTERS + 100


async def test_a_server_that_dies_in_a_call_is_an_error_to_the_model(world: World, llm: FakeLLM) -> None:
    with McpProcess() as own:
        outcome = await ask(world, "[call=quit]", named(own))
    assert isinstance(outcome, Success)
    assert "Error: the call failed" in llm.requests[-1].body["messages"][-1]["content"]


async def test_a_tool_that_is_slow_is_told_as_such(
    world: World, llm: FakeLLM, server: McpProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "CALL_SECONDS", 0.3)
    outcome = await ask(world, '[call=sleep {"seconds": 30}]', named(server))
    assert isinstance(outcome, Success)
    assert "Error: no result within 0.3 seconds" in llm.requests[-1].body["messages"][-1]["content"]


async def test_rounds_are_bounded_and_the_last_one_must_answer(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    outcome = await ask(world, '[call=add {"a": 1, "b": 1}][forever]', named(server))
    assert isinstance(outcome, Success)
    assert len(llm.requests) == MAX_ROUNDS + 1
    assert "tool_choice" not in llm.requests[-2].body
    assert llm.requests[-1].body["tool_choice"] == "none"
    assert outcome.usage is not None
    assert len(outcome.usage.tool_calls) == MAX_ROUNDS


async def test_a_forced_tool_is_forced_once(world: World, llm: FakeLLM, server: McpProcess) -> None:
    await ask(world, '[call=add {"a": 1, "b": 1}]', named(server), parameters={"tool_choice": "required"})
    assert [request.body.get("tool_choice") for request in llm.requests] == ["required", None]


async def test_tools_of_one_name_are_told_apart_by_their_servers(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    outcome = await ask(
        world, "[call=second__tools_odd_name]", named(server, "first"), named(server, "second")
    )
    assert isinstance(outcome, Success)
    names = [tool["function"]["name"] for tool in llm.requests[0].body["tools"]]
    assert len(set(names)) == 12
    assert {"add", "second__add"} < set(names)


@pytest.mark.parametrize("arguments", [["--json"], ["--stateless"], ["--json", "--stateless"]])
async def test_every_kind_of_streamable_http_works(world: World, arguments: list[str]) -> None:
    with McpProcess(*arguments) as own:
        outcome = await ask(world, '[call=add {"a": 1, "b": 2}]', named(own))
    assert isinstance(outcome, Success)
    assert (outcome.content or "").endswith("1 + 2 = 3")


async def test_usage_so_far_counts_when_a_later_call_fails(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    message = '[call=add {"a": 1, "b": 2}]'
    running = asyncio.create_task(ask(world, message, named(server)))
    while not llm.requests:
        await asyncio.sleep(0)
    llm.misbehave("status:400")
    outcome = await running
    assert isinstance(outcome, Failure)
    assert outcome.usage is not None
    assert [call.call_type for call in outcome.usage.calls] == ["tool_call"]


async def test_tool_calls_that_make_no_sense_are_a_bad_answer(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    llm.misbehave("bad_tool_calls")
    outcome = await ask(world, "hello", named(server))
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "upstream_bad_answer"


@pytest.mark.parametrize("kind", ["not there", "wrong token", "wrong path", "no mcp"])
async def test_a_server_that_cannot_be_used_is_tried_again_and_looks_the_same(
    world: World, llm: FakeLLM, server: McpProcess, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    target = named(server)
    match kind:
        case "not there":
            target["url"] = "http://127.0.0.1:9/mcp"
        case "wrong token":
            target["headers"]["Authorization"] = "Bearer wrong-token-1234"
        case "wrong path":
            target["url"] += "/nowhere"
        case "no mcp":
            target["url"] = f"{llm.url}/chat/completions"
    outcome = await ask(world, "hello", target)
    assert isinstance(outcome, Retry)
    assert (outcome.error.type, outcome.waiting) == ("mcp_unavailable", False)
    assert "'numbers' cannot be reached" in outcome.error.message
    own = [record.getMessage() for record in caplog.records if record.name.startswith("gristmill")]
    assert TOKEN not in "".join(own) + repr(outcome)
    assert "wrong-token" not in "".join(own) + repr(outcome)


async def test_a_private_address_is_refused_by_the_guard(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    async with HttpSession(allow_private=False) as http:
        outcome = await world.run(
            get("agent_message"),
            {"message": "hello"},
            config(world, named(server)),
            replace(world.services, http=http),
        )
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "mcp_unavailable"
    assert llm.requests == []


async def test_a_server_that_hangs_is_given_up(
    world: World, llm: FakeLLM, server: McpProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_client, "_CONNECT_SECONDS", 0.3)
    llm.always = "hang"
    outcome = await ask(world, "hello", named(server) | {"url": llm.url})
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "mcp_unavailable"


async def test_more_tools_than_a_model_takes_are_refused(world: World, llm: FakeLLM) -> None:
    with McpProcess("--tools", "200") as own:
        outcome = await ask(world, "hello", named(own))
    assert isinstance(outcome, Failure)
    assert outcome.error.type == "too_many_tools"
    assert llm.requests == []


async def test_headers_sealed_for_another_version_are_not_opened(world: World, server: McpProcess) -> None:
    sealed = base64.b64encode(world.vault.encrypt(orjson.dumps([named(server)]), f"mcp:{AGENT}:1")).decode()
    outcome = await ask(world, "hello", mcp_servers=sealed)
    assert isinstance(outcome, Failure)
    assert outcome.error.type == "secret_unreadable"
    assert "GRISTMILL_SECRET_KEY" in (outcome.error.suggestion or "")


async def test_an_item_that_is_cancelled_leaves_no_session_behind(
    world: World, llm: FakeLLM, server: McpProcess
) -> None:
    before = asyncio.all_tasks()
    llm.always = "hang"
    running = asyncio.create_task(ask(world, "hello", named(server)))
    while not llm.requests:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for _ in range(500):
        left = {task for task in asyncio.all_tasks() - before if "FakeLLM" not in repr(task)}
        if not left:
            break
        await asyncio.sleep(0.01)
    assert left == set()


def test_mcp_is_only_imported_when_an_agent_has_tools() -> None:
    assert mcp_client.mcp_available()
    code = "import sys, gristmill.processors as p; p.registry(); sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
