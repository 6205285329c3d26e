"""Inputs and configurations are checked strictly, whatever a model says, and errors never echo them."""

import time
from datetime import date
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field, field_validator

from gristmill.domain.outcomes import Outcome, Success
from gristmill.processors import get, validate, validate_config
from gristmill.processors.base import Context, Processor
from gristmill.processors.validation import MAX_PROBLEMS

AGENT = "018f0000-0000-7000-8000-00000000000a"


class Inner(BaseModel):
    count: int = 0
    share: float = 0.0
    on: bool = False


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Lax(BaseModel):
    """Asks for nothing strict: that is not its choice."""

    model_config: ClassVar[Any] = {"extra": "ignore", "strict": False}

    text: str
    day: date | None = None
    inner: Inner = Inner()
    many: list[Inner] = []
    either: int | Inner = 0
    animal: Cat | Dog | None = Field(default=None, discriminator="kind")
    by_name: dict[str, Inner] = {}
    custom: str = ""

    @field_validator("custom")
    @classmethod
    def _refused(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value} is not to my taste")
        return value


class Loose(Processor[Lax, Inner]):
    name = "loose"
    input_model = Lax
    config_model = Inner

    async def run(self, given: Lax, context: Context[Inner]) -> Outcome:
        return Success(given.text)


LOOSE = Loose()


def test_good_inputs_come_back_as_models() -> None:
    inputs, problems = validate(
        LOOSE, [{"text": "a", "day": "2026-11-22"}, {"text": "b", "inner": {"share": 1}}]
    )
    assert problems == []
    assert [item.text for item in inputs if isinstance(item, Lax)] == ["a", "b"]
    assert isinstance(inputs[0], Lax)
    assert inputs[0].day == date(2026, 11, 22)


def test_no_inputs_are_no_problem() -> None:
    assert validate(LOOSE, []) == ([], [])


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"text": 12}, "/text", "string_type"),
        ({"text": None}, "/text", "string_type"),
        ({"inner": {"count": "12"}}, "/inner/count", "int_type"),
        ({"inner": {"count": True}}, "/inner/count", "int_type"),
        ({"inner": {"count": 1.0}}, "/inner/count", "int_type"),
        ({"inner": {"share": "0.5"}}, "/inner/share", "float_type"),
        ({"inner": {"on": 1}}, "/inner/on", "bool_type"),
        ({"inner": {"on": "true"}}, "/inner/on", "bool_type"),
        ({"inner": {"more": 1}}, "/inner/more", "extra_forbidden"),
        ({"unknown": 1}, "/unknown", "extra_forbidden"),
        ({"a/b~c": 1}, "/a~1b~0c", "extra_forbidden"),
        ({"many": [{}, {"count": "x"}]}, "/many/1/count", "int_type"),
        ({"many": {}}, "/many", "list_type"),
        ({"either": {"count": "x"}}, "/either", "int_type"),
        ({"by_name": {"odd": {"count": []}}}, "/by_name/odd/count", "int_type"),
        ({"animal": {"kind": "secret-animal"}}, "/animal", "union_tag_invalid"),
        ({"animal": {}}, "/animal", "union_tag_not_found"),
        ({"day": "2026-13-01"}, "/day", "date_parsing"),
        ({"day": 0}, "/day", "date_type"),
        ({"custom": "secret-custom"}, "/custom", "value_error"),
    ],
)
def test_one_problem_points_to_what_is_wrong(change: dict[str, Any], pointer: str, code: str) -> None:
    inputs, problems = validate(LOOSE, [{"text": "good"}, {"text": "bad"} | change], inside="/input")
    assert isinstance(inputs[0], Lax)
    assert inputs[1] is None
    assert problems[0].pointer == f"/requests/1/input{pointer}"
    assert problems[0].code == code
    assert "secret" not in problems[0].detail


def test_what_is_missing_is_pointed_to() -> None:
    _, [problem] = validate(LOOSE, [{}])
    assert (problem.pointer, problem.code) == ("/requests/0/text", "missing")


@pytest.mark.parametrize("raw", [None, 3, "text", [], True])
def test_what_is_no_object_is_one_problem(raw: object) -> None:
    _, [problem] = validate(LOOSE, [raw])
    assert (problem.pointer, problem.code) == ("/requests/0", "model_type")


def test_every_bad_input_is_found_and_at_most_100_problems_are_told() -> None:
    raw: list[object] = [{"text": 1, "unknown": 2} if index % 2 else {"text": "good"} for index in range(400)]
    inputs, problems = validate(LOOSE, raw)
    assert [item is None for item in inputs] == [bool(index % 2) for index in range(400)]
    assert len(problems) == MAX_PROBLEMS


def test_a_bad_input_far_back_is_found_at_its_place() -> None:
    raws: list[object] = [{"text": "good"} for _ in range(200)]
    raws[100] = {"text": 1}
    inputs, problems = validate(LOOSE, raws)
    assert [problem.pointer for problem in problems] == ["/requests/100/text"]
    assert [index for index, one in enumerate(inputs) if one is None] == [100]
    assert len(inputs) == 200


def test_a_long_unknown_name_is_cut() -> None:
    _, [problem] = validate(LOOSE, [{"text": "a", "x" * 5000: 1}])
    assert len(problem.pointer) < 100


@pytest.mark.parametrize(
    "text",
    [
        f"{{{AGENT}}}",
        f"urn:uuid:{AGENT}",
        AGENT.replace("-", ""),
        f" {AGENT}",
        AGENT[:-1],
        "z" * 36,
        "",
    ],
)
def test_a_uuid_is_written_in_its_usual_form(text: str) -> None:
    _, [problem] = validate(get("agent_message"), [{"message": "a", "agent_id": text}])
    assert (problem.pointer, problem.code) == ("/requests/0/agent_id", "uuid_parsing")
    assert problem.detail == "Input should be a valid UUID"


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"message": ""}, "/message", "string_too_short"),
        ({"message": " \n\t"}, "/message", "string_pattern_mismatch"),
        ({"name": "x" * 257}, "/name", "string_too_long"),
        ({"external_user_id": "x" * 257}, "/external_user_id", "string_too_long"),
        ({"history_id": "5"}, "/history_id", "int_type"),
        ({"history_id": 0}, "/history_id", "greater_than_equal"),
        ({"history_id": 2**63}, "/history_id", "less_than_equal"),
        ({"attached_file_uuids": [AGENT, "x"]}, "/attached_file_uuids/1", "uuid_parsing"),
        ({"attached_file_uuids": [AGENT] * 21}, "/attached_file_uuids", "too_long"),
        ({"temperature": 1}, "/temperature", "extra_forbidden"),
    ],
)
def test_the_fields_of_a_message_have_their_limits(change: dict[str, Any], pointer: str, code: str) -> None:
    _, problems = validate(get("agent_message"), [{"message": "hello"} | change])
    assert [(problem.pointer, problem.code) for problem in problems] == [(f"/requests/0{pointer}", code)]


def test_a_message_at_its_limits_is_good() -> None:
    given = {
        "message": "x",
        "agent_id": AGENT.upper(),
        "name": "x" * 256,
        "history_id": 2**63 - 1,
        "attached_file_uuids": [AGENT] * 20,
    }
    assert validate(get("agent_message"), [given])[1] == []


def test_a_configuration_is_checked_as_strictly() -> None:
    config, problems = validate_config(LOOSE, {"count": "1", "more": 2}, pointer="/config")
    assert config is None
    assert [(problem.pointer, problem.code) for problem in problems] == [
        ("/config/count", "int_type"),
        ("/config/more", "extra_forbidden"),
    ]


def test_a_thousand_inputs_take_a_few_milliseconds() -> None:
    raw = [{"message": "x" * 200, "history_id": index + 1} for index in range(1000)]
    validate(get("agent_message"), raw[:1])
    best = min(_milliseconds(raw) for _ in range(10))
    assert best < 15


def _milliseconds(raw: list[dict[str, Any]]) -> float:
    started = time.process_time()
    validate(get("agent_message"), raw)
    return (time.process_time() - started) * 1000
