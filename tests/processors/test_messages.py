"""Anthropic's messages asked of an endpoint that speaks OpenAI: translated there and back, or refused by name."""

from dataclasses import replace
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.world import World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import get, messages_answer, messages_request, validate_config
from gristmill.processors.messages_request import Inexpressible
from gristmill.upstream.errors import UpstreamError

ASKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "hello"}],
}


async def ask(world: World, params: dict[str, Any], **config: Any) -> Outcome:
    made, problems = validate_config(get("messages"), config)
    assert problems == []
    return await world.run(get("messages"), params, made)


def said(*content: Any, role: str = "user") -> list[Any]:
    """The messages that come of one with this content."""
    given = {"role": role, "content": list(content)}
    found: list[Any] = messages_request.chat({"max_tokens": 1, "messages": [given]})["messages"]
    return found


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


async def test_a_question_goes_out_and_its_answer_comes_back_as_a_message(world: World, llm: FakeLLM) -> None:
    outcome = await ask(world, ASKED)
    assert isinstance(outcome, Success)
    assert llm.requests[0].path == "/v1/chat/completions"
    assert llm.requests[0].body == ASKED
    assert outcome.content == "You said: hello"
    message = outcome.output
    assert message["content"] == [{"type": "text", "text": "You said: hello"}]
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "end_turn")
    assert outcome.usage is not None
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (
        outcome.usage.prompt_tokens, outcome.usage.completion_tokens,
    )  # fmt: skip
    assert outcome.usage.cost_microusd == outcome.usage.prompt_tokens + 2 * outcome.usage.completion_tokens


async def test_the_model_is_the_configurations_else_the_requests_else_the_services(
    world: World, llm: FakeLLM
) -> None:
    await ask(world, ASKED, model="configured")
    await ask(world, ASKED)
    await ask(world, {name: value for name, value in ASKED.items() if name != "model"})
    assert [one.body["model"] for one in llm.requests] == ["configured", "m", "default-model"]


def test_parameters_are_translated() -> None:
    body = messages_request.chat(
        ASKED
        | {
            "system": [text("Be brief."), text("Be kind.")],
            "temperature": 0.5,
            "top_p": 1,
            "stop_sequences": ["."],
            "metadata": {"user_id": "u"},
            "tools": [{"name": "t", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "thinking": {"type": "disabled"},
            "output_config": {
                "effort": "low",
                "format": {"type": "json_schema", "schema": {"type": "object"}},
            },
            "stream": False,
            "service_tier": "auto",
            "container": None,
        }
    )
    assert body == {
        "model": "m",
        "max_tokens": 10,
        "messages": [
            {"role": "system", "content": "Be brief.\nBe kind."},
            {"role": "user", "content": "hello"},
        ],
        "temperature": 0.5,
        "top_p": 1,
        "stop": ["."],
        "user": "u",
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "t", "parameters": {"type": "object"}, "description": "d", "strict": True,
                },
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "t"}, {"type": "function", "function": {"name": "t"}}),
    ],
)
def test_choices_of_tools_are_translated(given: Any, made: Any) -> None:
    assert messages_request.chat(ASKED | {"tool_choice": given})["tool_choice"] == made


def test_images_and_plain_documents_go_along_with_the_text() -> None:
    base64 = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    url = {"type": "url", "url": "https://example.com/a.png"}
    document = {"type": "text", "media_type": "text/plain", "data": "It grinds."}
    assert said(
        text("What is this?"),
        {"type": "image", "source": base64},
        {"type": "image", "source": url},
        {"type": "document", "title": "On mills", "source": document},
    ) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "text", "text": "On mills\n\nIt grinds."},
            ],
        }
    ]


def test_a_round_of_tools_is_translated_and_earlier_thinking_left_out() -> None:
    use = {"type": "tool_use", "id": "tu_1", "name": "weather", "input": {"city": "Ulm"}}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    call = {
        "id": "tu_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Ulm"}'},
    }
    assert said(thinking, text("Let me see."), use, role="assistant") == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "tu_1", "content": [text("Rain"), text("Wind")]},
        {"type": "tool_result", "tool_use_id": "tu_2", "content": "gone", "is_error": True},
    ]
    assert said(*results, text("And now?")) == [
        {"role": "tool", "tool_call_id": "tu_1", "content": "Rain\nWind"},
        {"role": "tool", "tool_call_id": "tu_2", "content": "Error: gone"},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"top_k": 5}, "top_k: cannot be expressed"),
        ({"container": "c"}, "container: cannot be expressed"),
        ({"a secret\n": 1}, "a parameter: cannot be expressed"),
        ({"stream": True}, "stream: a batch takes no requests"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking: a budget"),
        ({"output_config": {"effort": "max"}}, "output_config.effort:"),
        ({"output_config": {"effort": ["low"]}}, "output_config.effort:"),
        ({"messages": [{"role": "assistant", "content": [{"type": []}]}]}, "messages.0.content.0: a block"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0: a tool that"),
        ({"tools": 5}, "tools: must be a list"),
        ({"max_tokens": None}, "max_tokens: is required"),
        ({"max_tokens": "10"}, "max_tokens: is of the wrong type"),
        ({"max_tokens": True}, "max_tokens: is of the wrong type"),
        ({"messages": []}, "messages: at least one"),
        ({"messages": [], "system": "x"}, "messages: at least one"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role:"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: must be a list"),
        ({"messages": ["x"]}, "messages.0: must be an object"),
        ({"system": [{"type": "image"}]}, "system.0: anything but text"),
    ],
)
async def test_what_cannot_be_expressed_fails_and_says_so(
    world: World, llm: FakeLLM, params: dict[str, Any], told: str
) -> None:
    outcome = await ask(world, ASKED | params)
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type) == (400, "invalid_request")
    assert outcome.error.message.startswith(told)
    assert llm.requests == []


@pytest.mark.parametrize(
    ("block", "at"),
    [
        ({"type": "server_tool_use"}, ""),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, ".source"),
        ({"type": "image"}, ".source"),
        ({"type": "document", "source": {"type": "base64", "data": "AA"}}, ""),
        ({"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}, ""),
        ({"type": "document", "source": {"type": "text", "data": "x"}, "citations": [1]}, ".citations"),
        ({"type": "tool_result", "content": [{"type": "image"}]}, ".content.0"),
        ({"type": "text", "text": 5}, ".text"),
    ],
)
def test_blocks_that_cannot_be_expressed_are_named(block: Any, at: str) -> None:
    with pytest.raises(Inexpressible) as refused:
        said(text("x"), block)
    assert str(refused.value).startswith(f"messages.0.content.1{at}: ")


def answered(message: dict[str, Any], finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"message": message, "finish_reason": finish_reason} | more
    return messages_answer.message(choice, {"model": "m", "usage": more.get("usage")}, "msg_1")


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), (None, "end_turn"),
        ("of its own", "end_turn"), (5, "end_turn"),
    ],
)  # fmt: skip
def test_why_it_stopped_is_translated(finish_reason: Any, stop_reason: str) -> None:
    assert answered({"content": "x"}, finish_reason)["stop_reason"] == stop_reason


def test_the_sequence_that_stopped_it_is_told_where_the_endpoint_tells() -> None:
    found = answered({"content": "x"}, stop_reason="END")
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", "END")
    assert answered({"content": "x"}, stop_reason=128009)["stop_sequence"] is None


def test_a_refusal_is_one() -> None:
    found = answered({"content": None, "refusal": "No."})
    assert (found["stop_reason"], found["content"]) == ("refusal", [{"type": "text", "text": "No."}])


def test_calls_of_tools_stand_behind_the_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "t", "arguments": '{"a": 1}'}}
    found = answered({"content": "Let me see.", "tool_calls": [call]}, "stop")
    assert found["stop_reason"] == "tool_use"
    assert found["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c", "name": "t", "input": {"a": 1}},
    ]


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c", "function": {"name": "t", "arguments": "{"}},
        {"id": "c", "function": {"name": "t", "arguments": "[]"}},
        {"id": "c", "function": {}},
        {"function": {"name": "t"}},
        "c",
    ],
)
def test_calls_of_tools_that_are_none_are_a_bad_answer(call: Any) -> None:
    with pytest.raises(UpstreamError):
        answered({"content": None, "tool_calls": [call]})


def test_tokens_out_of_a_cache_count_apart() -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 80},
    }  # fmt: skip
    assert answered({"content": "x"}, usage=usage)["usage"] == {
        "input_tokens": 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 80,
        "output_tokens": 7,
    }
    assert answered({"content": "x"})["usage"]["input_tokens"] == 0


@pytest.mark.parametrize("fault", ["empty_choices", "no_choices", "reset"])
async def test_no_answer_is_asked_for_again(world: World, llm: FakeLLM, fault: str) -> None:
    llm.misbehave(fault)
    assert isinstance(await ask(world, ASKED), Retry)


async def test_an_endpoint_that_speaks_messages_must_answer_with_one(world: World, llm: FakeLLM) -> None:
    assert world.services.upstream is not None
    world.services.upstream.speaks_messages = True
    outcome = await ask(world, ASKED | {"top_k": 5})
    assert isinstance(outcome, Success)
    assert outcome.content == "You said: hello"
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (1, 3)
    assert isinstance(await ask(world, ASKED | {"stream": True}), Failure)
    llm.script = lambda request: (200, {"choices": []})
    assert isinstance(await ask(world, ASKED), Retry)


async def test_no_endpoint_is_a_failure(world: World) -> None:
    config, _ = validate_config(get("messages"), {})
    outcome = await world.run(get("messages"), ASKED, config, replace(world.services, upstream=None))
    assert isinstance(outcome, Failure)
    assert outcome.error.type == "upstream_not_configured"
