"""One request body, passed on; its whole answer, kept."""

from dataclasses import replace
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.world import World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import get, validate, validate_config

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "n": 1}


async def complete(world: World, body: dict[str, Any], path: str = "/chat/completions") -> Outcome:
    config, problems = validate_config(get("completion"), {"path": path})
    assert problems == []
    return await world.run(get("completion"), body, config)


async def test_a_chat_body_goes_through_untouched(world: World, llm: FakeLLM) -> None:
    outcome = await complete(world, CHAT)
    assert isinstance(outcome, Success)
    assert llm.requests[0].body == CHAT
    assert outcome.content == "You said: hello"
    assert outcome.output["choices"][0]["message"]["content"] == "You said: hello"
    assert outcome.usage is not None
    assert outcome.usage.as_json()["total_tokens"] == outcome.output["usage"]["total_tokens"]
    assert outcome.turn is None


async def test_embeddings_go_through(world: World, llm: FakeLLM) -> None:
    outcome = await complete(world, {"input": ["one two", "three"]}, "/embeddings")
    assert isinstance(outcome, Success)
    assert llm.requests[0].path == "/v1/embeddings"
    assert llm.requests[0].body == {"model": "default-model", "input": ["one two", "three"]}
    assert [len(entry["embedding"]) for entry in outcome.output["data"]] == [8, 8]
    assert outcome.content is None
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (3, 0)
    assert outcome.usage.cost_microusd == 3


async def test_responses_go_through(world: World) -> None:
    outcome = await complete(world, {"model": "m", "input": "one two"}, "/responses")
    assert isinstance(outcome, Success)
    assert outcome.content == "You said: one two"
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (2, 4)


@pytest.mark.parametrize("fault", ["empty_choices", "no_choices", "reset"])
async def test_no_answer_is_asked_for_again(world: World, llm: FakeLLM, fault: str) -> None:
    llm.misbehave(fault)
    assert isinstance(await complete(world, CHAT), Retry)


@pytest.mark.parametrize("path", ["/embeddings", "/responses"])
async def test_the_answer_must_be_one_to_this_path(world: World, llm: FakeLLM, path: str) -> None:
    llm.misbehave("content_empty")
    outcome = await complete(world, {"input": "x"}, path)
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "upstream_bad_answer"


async def test_an_empty_message_is_an_answer_here(world: World, llm: FakeLLM) -> None:
    llm.misbehave("content_null")
    outcome = await complete(world, CHAT)
    assert isinstance(outcome, Success)
    assert outcome.content is None


async def test_a_body_that_the_endpoint_refuses_fails_at_once(world: World, llm: FakeLLM) -> None:
    llm.misbehave("status:422")
    outcome = await complete(world, {"messages": "none"})
    assert isinstance(outcome, Failure)
    assert outcome.error.upstream_status == 422


async def test_no_endpoint_is_a_failure(world: World) -> None:
    config, _ = validate_config(get("completion"), {})
    outcome = await world.run(get("completion"), CHAT, config, replace(world.services, upstream=None))
    assert isinstance(outcome, Failure)
    assert outcome.error.type == "upstream_not_configured"


@pytest.mark.parametrize("name", ["stream", "background"])
def test_what_does_not_answer_at_once_is_refused_before_a_row_exists(name: str) -> None:
    inputs, problems = validate(get("completion"), [CHAT, CHAT | {name: True}], inside="/input")
    assert inputs[1] is None
    assert [(problem.pointer, problem.code) for problem in problems] == [
        ("/requests/1/input", f"{name}_not_supported")
    ]


@pytest.mark.parametrize("raw", ["text", 3, None, []])
def test_a_body_is_an_object(raw: object) -> None:
    _, [problem] = validate(get("completion"), [raw], inside="/input")
    assert (problem.pointer, problem.code) == ("/requests/0/input", "dict_type")


@pytest.mark.parametrize(
    "path", ["/models", "/files", "", "chat/completions", "/chat/completions/../../x", None]
)
def test_only_the_known_paths_are_taken(path: object) -> None:
    config, problems = validate_config(get("completion"), {"path": path})
    assert config is None
    assert [problem.pointer for problem in problems] == ["/config/path"]
