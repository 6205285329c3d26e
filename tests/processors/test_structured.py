"""JSON by a schema, from endpoints that can more and less."""

import json
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.script import Script
from fakes.world import World
from gristmill.domain.outcomes import Failure, Retry
from gristmill.processors import output_schema
from gristmill.processors.structured import Asking, InvalidOutput
from gristmill.upstream.errors import UpstreamError

SCHEMA = output_schema.of(
    {
        "type": "object",
        "properties": {"title": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["title", "count"],
        "additionalProperties": False,
    }
)
ANSWER = {"title": "hello world", "count": 11}


def asking(world: World, **parameters: Any) -> Asking:
    assert world.services.upstream
    return Asking(world.services.upstream, "m", "request-1", parameters)


async def ask(world: World, schema: output_schema.OutputSchema = SCHEMA) -> Any:
    return await asking(world).ask("Say what it is.", "hello world", schema)


def chat(content: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"content": content, **message}}
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


def answers(llm: FakeLLM, *bodies: dict[str, Any]) -> None:
    waiting = list(bodies)
    llm.script = lambda request: (200, waiting.pop(0))


async def test_the_schema_goes_along_as_response_format_and_in_the_prompt(world: World, llm: FakeLLM) -> None:
    llm.script = Script()
    calls = asking(world, temperature=0, response_format="mine", stream=True)
    assert await calls.ask("Say what it is.", "hello world", SCHEMA) == ANSWER
    [request] = llm.requests
    named = {"name": "answer", "schema": SCHEMA.schema, "strict": True}
    assert request.body["response_format"] == {"type": "json_schema", "json_schema": named}
    assert request.body.keys() == {"model", "messages", "temperature", "response_format"}
    assert SCHEMA.text in request.body["messages"][0]["content"]
    assert request.body["messages"][0]["content"].startswith("Say what it is.")
    assert request.said == "hello world"
    assert calls.asked_again == 0


@pytest.mark.parametrize(
    ("refuses", "taken"),
    [
        ({"json_schema"}, "tool"),
        ({"json_schema", "tool"}, "json_object"),
        ({"json_schema", "tool", "json_object"}, "text"),
        ({"tool", "json_object"}, "json_schema"),
    ],
)
async def test_the_next_form_is_tried_where_the_endpoint_refuses_one_and_it_is_not_asked_twice(
    world: World, llm: FakeLLM, refuses: set[str], taken: str
) -> None:
    llm.script = script = Script(refuses=refuses)
    assert await ask(world) == ANSWER
    assert script.forms[-1] == taken
    first = len(script.forms)
    assert await ask(world) == ANSWER
    assert script.forms[first:] == [taken]


async def test_a_refusal_is_remembered_for_its_schema_only(world: World, llm: FakeLLM) -> None:
    llm.script = script = Script(refuses={"json_schema"})
    await ask(world)
    script.refuses = set()
    other = output_schema.of({"type": "object", "properties": {"title": {"type": "string"}}})
    await ask(world, other)
    assert script.forms == ["json_schema", "tool", "json_schema"]


async def test_a_refusal_counts_only_once_another_form_has_worked(world: World, llm: FakeLLM) -> None:
    script = Script(refuses={"json_schema"})

    def broken(request: Any) -> tuple[int, dict[str, Any]]:
        return (500, {"error": {"message": "no"}}) if "tools" in request.body else script(request)

    llm.script = broken
    with pytest.raises(UpstreamError) as error:
        await ask(world)
    assert error.value.error.type == "upstream_error"
    llm.script = script = Script()
    assert await ask(world) == ANSWER
    assert script.forms == ["json_schema"]


async def test_an_error_that_names_nothing_of_the_form_is_no_refusal(world: World, llm: FakeLLM) -> None:
    llm.misbehave("status:400")
    with pytest.raises(UpstreamError) as error:
        await ask(world)
    assert error.value.error.type == "upstream_rejected"
    assert len(llm.requests) == 1


async def test_a_refusal_in_the_words_of_fastapi_is_understood(world: World, llm: FakeLLM) -> None:
    script = Script()

    def refusing(request: Any) -> tuple[int, dict[str, Any]]:
        if "response_format" in request.body:
            detail = [{"loc": ["body", "response_format", "type"], "msg": "unexpected value", "type": "x"}]
            return 422, {"detail": detail}
        return script(request)

    llm.script = refusing
    assert await ask(world) == ANSWER
    assert script.forms == ["tool"]


@pytest.mark.parametrize("status", [401, 403, 413, 429, 500, 503])
async def test_other_errors_are_no_refusal_whatever_they_say(world: World, llm: FakeLLM, status: int) -> None:
    llm.script = lambda request: (status, {"error": {"message": "response_format tools", "code": None}})
    with pytest.raises(UpstreamError):
        await ask(world)
    assert len(llm.requests) == 1


async def test_only_an_object_can_be_the_parameters_of_a_tool(world: World, llm: FakeLLM) -> None:
    llm.script = script = Script(refuses={"json_schema"})
    numbers = output_schema.of({"type": "array", "items": {"type": "string"}})
    assert await ask(world, numbers) == []
    assert script.forms == ["json_schema", "text"]


async def test_arguments_that_come_as_an_object_are_taken(world: World, llm: FakeLLM) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "answer", "arguments": ANSWER}}
    answers(llm, chat(None, "tool_calls", tool_calls=[call]))
    assert await ask(world) == ANSWER


@pytest.mark.parametrize(
    "content",
    [json.dumps(ANSWER), f"\n{json.dumps(ANSWER)} \n", f"```json\n{json.dumps(ANSWER, indent=1)}\n```"],
)
async def test_space_and_one_fence_around_it_are_no_fault(world: World, llm: FakeLLM, content: str) -> None:
    answers(llm, chat(content))
    assert await ask(world) == ANSWER


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "Sure! Here it is:",
        f"Sure! {json.dumps(ANSWER)}",
        f"{json.dumps(ANSWER)} {json.dumps(ANSWER)}",
        '{"title": "x", "count": NaN}',
        '{"title": "x", "count": 1.5}',
        '{"title": "x"}',
        '{"title": "x", "count": 1, "more": 1}',
        '{"title": "x", "count": 18446744073709551616}',
        "[" * 100 + "]" * 100,
        "x" * 1_000_001,
    ],
)
async def test_what_does_not_validate_is_asked_for_once_more_with_what_is_wrong(
    world: World, llm: FakeLLM, bad: str
) -> None:
    answers(llm, chat(bad), chat(json.dumps(ANSWER)))
    calls = asking(world)
    assert await calls.ask("Say what it is.", "hello world", SCHEMA) == ANSWER
    assert calls.asked_again == 1
    first, again = (request.body["messages"] for request in llm.requests)
    assert again[:2] == first
    assert again[2]["content"] == (bad[:4000] or "(nothing)")
    assert again[3]["content"].startswith("That does not validate:\n- ")
    assert len(json.dumps(again)) < 10_000
    used = calls.usage
    assert used is not None
    assert used.as_json()["total_calls"] == 2
    assert (used.prompt_tokens, used.completion_tokens) == (10, 4)
    assert used.cost_microusd == 10 * 1 + 4 * 2


async def test_what_is_wrong_is_told_by_place_and_rule(world: World, llm: FakeLLM) -> None:
    answers(llm, chat('{"title": 3}'), chat(json.dumps(ANSWER)))
    await ask(world)
    told = llm.requests[1].said
    assert '/title: the value is not of type "string"' in told
    assert '"count" is a required property' in told


async def test_two_bad_answers_are_a_failure_that_may_be_tried_again_and_quotes_nothing(
    world: World, llm: FakeLLM
) -> None:
    answers(
        llm, chat('{"title": "SECRET", "count": "SECRET"}'), chat('{"title": "SECRET", "count": "SECRET"}')
    )
    calls = asking(world)
    with pytest.raises(InvalidOutput) as error:
        await calls.ask("Say what it is.", "hello world", SCHEMA)
    outcome = error.value.outcome(calls.usage)
    assert isinstance(outcome, Retry)
    assert not outcome.waiting
    assert (outcome.error.code, outcome.error.type) == (500, "invalid_output")
    assert "/properties/count/type" in outcome.error.message
    assert "SECRET" not in outcome.error.message
    assert outcome.error.suggestion
    assert outcome.usage is not None
    assert len(outcome.usage.calls) == 2
    assert len(llm.requests) == 2


async def test_an_answer_that_is_cut_twice_is_final(world: World, llm: FakeLLM) -> None:
    answers(llm, chat('{"title": "a lo', "length"), chat('{"title": "a lo', "length"))
    with pytest.raises(InvalidOutput) as error:
        await ask(world)
    outcome = error.value.outcome()
    assert isinstance(outcome, Failure)
    assert "max_tokens" in (outcome.error.suggestion or "")
    assert "Make it shorter" in llm.requests[1].said


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (chat(None, refusal="I will not."), "model_refused"),
        (chat("", "content_filter"), "content_filtered"),
    ],
)
async def test_a_refusal_of_the_model_is_final_and_not_argued_with(
    world: World, llm: FakeLLM, body: dict[str, Any], kind: str
) -> None:
    answers(llm, body)
    with pytest.raises(UpstreamError) as error:
        await ask(world)
    assert error.value.error.type == kind
    assert not error.value.error.retryable
    assert len(llm.requests) == 1
