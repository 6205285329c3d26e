"""JSON by the caller's schema, of texts short and long."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from fakes.llm import FakeLLM
from fakes.script import Script
from fakes.wire import Request
from fakes.world import Kept, World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import get, output_schema, validate, validate_config

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "names": {"type": "array", "items": {"type": "string"}},
        "last": {"type": "string"},
    },
    "required": ["title", "names", "last"],
    "additionalProperties": False,
}
PARTS = 6
LONG = "\n\n".join(f"# Part {n}\n\n" + f"Word{n} of a sentence here. " * 15 for n in range(PARTS))


async def extract(world: World, text: str, kept: Kept | None = None, **config: Any) -> Outcome:
    made, problems = validate_config(get("extract"), {"schema": SCHEMA} | config)
    assert problems == []
    services = replace(world.services, checkpoints=kept)
    return await world.run(get("extract"), {"text": text}, made, services)


def scripted(llm: FakeLLM, *values: Any) -> None:
    """One value after the other."""
    waiting = list(values)

    def script(request: Request) -> tuple[int, dict[str, Any]]:
        message = {"content": orjson.dumps(waiting.pop(0)).decode()}
        return 200, {"model": "m", "choices": [{"message": message}], "usage": {"prompt_tokens": 1}}

    llm.script = script


async def test_a_text_becomes_json_that_validates_and_says_where_its_words_stand(
    world: World, llm: FakeLLM
) -> None:
    scripted(llm, {"title": "Ada  Lovelace", "names": ["Ada", "Bob", "England"], "last": "of"})
    outcome = await extract(world, "By Ada\nLovelace, of England.", instructions="Look at persons.")
    assert isinstance(outcome, Success)
    assert outcome.output == {
        "data": {"title": "Ada  Lovelace", "names": ["Ada", "Bob", "England"], "last": "of"},
        "places": [
            {"at": "/title", "page": None, "start": 3, "end": 15},
            {"at": "/names/2", "page": None, "start": 20, "end": 27},
        ],
        "document": {"filename": None, "language": None, "pages": None},
        "parts": 1,
        "parts_left_out": 0,
        "asked_again": 0,
    }
    assert orjson.loads(outcome.content or "") == outcome.output["data"]
    [request] = llm.requests
    assert request.said == "By Ada\nLovelace, of England."
    assert "Look at persons." in request.body["messages"][0]["content"]
    assert request.body["model"] == "default-model"
    assert outcome.usage is not None
    assert outcome.usage.as_json()["total_calls"] == 1


async def test_a_long_text_is_asked_about_in_parts_and_merged(world: World, llm: FakeLLM) -> None:
    scripted(
        llm,
        {"title": "First", "names": ["a"]},
        {"names": ["b", "A"]},
        *[{} for _ in range(PARTS - 3)],
        {"title": "Last", "last": "z"},
    )
    kept = Kept()
    outcome = await extract(world, LONG, kept, max_characters=500)
    assert isinstance(outcome, Success)
    assert outcome.output["data"] == {"title": "First", "names": ["a", "b"], "last": "z"}
    assert (outcome.output["parts"], outcome.output["parts_left_out"]) == (PARTS, 0)
    said = [request.said for request in llm.requests]
    assert [text[:8] for text in said] == [f"# Part {n}" for n in range(PARTS)]
    assert "".join("".join(said).split()) == "".join(LONG.split())
    assert all(len(text) <= 500 for text in said)
    assert "part 2 of 6" in llm.requests[1].body["messages"][0]["content"]
    assert "required" not in llm.requests[1].body["response_format"]["json_schema"]["schema"]
    assert [(one.stage, one.done, one.total) for one in kept.saves] == [
        ("ASKING", n, PARTS) for n in range(PARTS + 1)
    ]
    assert outcome.usage is not None
    assert len(outcome.usage.calls) == PARTS


async def test_parts_beyond_the_limit_are_left_out_and_counted(world: World, llm: FakeLLM) -> None:
    scripted(llm, {"title": "First", "names": []}, {"last": "z"})
    outcome = await extract(world, LONG, max_characters=500, max_parts=2)
    assert isinstance(outcome, Success)
    assert (outcome.output["parts"], outcome.output["parts_left_out"]) == (2, PARTS - 2)


async def test_what_no_part_tells_is_asked_for_in_one_call_more(world: World, llm: FakeLLM) -> None:
    scripted(llm, *[{"title": "T", "names": []}] * PARTS, {"title": "T", "names": [], "last": ""})
    outcome = await extract(world, LONG, max_characters=500)
    assert isinstance(outcome, Success)
    assert outcome.output["data"] == {"title": "T", "names": [], "last": ""}
    assert len(llm.requests) == PARTS + 1
    assert orjson.loads(llm.requests[-1].said) == {"title": "T", "names": []}
    assert llm.requests[-1].body["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_an_attempt_goes_on_behind_the_parts_that_were_answered(world: World, llm: FakeLLM) -> None:
    kept = Kept()
    scripted(llm, {"title": "First"}, {"names": ["b"]}, {}, [], [])  # the fourth part, asked twice
    outcome = await extract(world, LONG, kept, max_characters=500)
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "invalid_output"
    assert outcome.usage is not None
    assert len(outcome.usage.calls) == 5
    assert kept.saves[-1].done == 3
    scripted(llm, {}, {}, {"last": "z"})
    llm.requests.clear()
    outcome = await extract(world, LONG, kept, max_characters=500)
    assert isinstance(outcome, Success)
    assert outcome.output["data"] == {"title": "First", "names": ["b"], "last": "z"}
    assert [request.said[:8] for request in llm.requests] == ["# Part 3", "# Part 4", "# Part 5"]


async def test_answers_about_another_text_are_not_used(world: World, llm: FakeLLM) -> None:
    kept = Kept()
    llm.script = Script()
    await extract(world, "Some other text.", kept)
    outcome = await extract(world, "Now this one.", kept)
    assert isinstance(outcome, Success)
    assert outcome.output["data"]["title"] == "Now this one."


async def test_the_preset_is_usable_as_it_is(world: World, llm: FakeLLM) -> None:
    llm.script = Script()
    config, problems = validate_config(get("extract"), get("extract").presets["EXTRACT_DEFAULT"])
    assert problems == []
    outcome = await world.run(get("extract"), {"text": "Report of Ada to Bob. It is short."}, config)
    assert isinstance(outcome, Success)
    data = outcome.output["data"]
    assert list(data) == ["title", "summary", "dates", "people", "organisations", "keys"]
    assert data["people"] == ["Report", "Ada", "Bob"]
    assert output_schema.of(get("extract").presets["EXTRACT_DEFAULT"]["schema"]).flaws(data) == []


@pytest.mark.parametrize("text", ["", " \n\t "])
async def test_nothing_to_read_is_a_failure_with_advice(world: World, llm: FakeLLM, text: str) -> None:
    outcome = await extract(world, text)
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type) == (400, "no_text")
    assert outcome.error.suggestion
    assert llm.requests == []


@pytest.mark.parametrize(
    ("change", "kind"), [("none", "upstream_not_configured"), ("no model", "model_not_configured")]
)
async def test_a_service_without_a_model_says_so(world: World, change: str, kind: str) -> None:
    assert world.services.upstream
    upstream = None
    if change == "no model":
        upstream = world.services.upstream
        upstream.model = None
    made, _ = validate_config(get("extract"), {"schema": SCHEMA})
    outcome = await world.run(get("extract"), {"text": "x"}, made, replace(world.services, upstream=upstream))
    assert isinstance(outcome, Failure)
    assert outcome.error.type == kind


@pytest.mark.parametrize(
    ("config", "pointer", "code", "said"),
    [
        ({}, "/config/schema", "missing", "required"),
        ({"schema": []}, "/config/schema", "dict_type", "object"),
        ({"schema": {"type": "objekt"}}, "/config/schema", "json_schema", "/type"),
        (
            {"schema": {"$ref": "http://127.0.0.1/x"}},
            "/config/schema",
            "json_schema",
            "into the schema itself",
        ),
        (
            {"schema": {"properties": {"a": {"$ref": "#"}}}},
            "/config/schema",
            "json_schema",
            "refers to itself",
        ),
        ({"schema": {}, "max_parts": 101}, "/config/max_parts", "less_than_equal", "100"),
        ({"schema": {}, "first_page": 3, "last_page": 2}, "/config", "page_range", "before"),
        ({"output_schema": {}}, "/config/output_schema", "extra_forbidden", "not permitted"),
    ],
)
def test_a_configuration_is_checked_before_a_row_exists(
    config: dict[str, Any], pointer: str, code: str, said: str
) -> None:
    _, problems = validate_config(get("extract"), config)
    assert (pointer, code) in [(one.pointer, one.code) for one in problems]
    assert any(said in one.detail for one in problems if one.pointer == pointer)


def test_a_configuration_survives_being_stored() -> None:
    made, _ = validate_config(get("extract"), {"schema": SCHEMA})
    assert made is not None
    again = get("extract").config_model.model_validate_json(made.model_dump_json())
    assert again == made
    assert orjson.loads(made.model_dump_json())["schema"] == SCHEMA


def test_tasks_find_an_item_by_the_name_of_its_file() -> None:
    [given], _ = validate(get("extract"), [{"source": "a/b.pdf", "source_type": "local"}])
    assert get("extract").item_name(given) == "b.pdf"
