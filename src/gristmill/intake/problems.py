"""Pydantic's findings in our words: a JSON pointer, a stable code, a sentence that never quotes the input."""

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gristmill.domain import marks
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake.beside import beside

MAX_PROBLEMS = 100
_SEGMENT_CHARACTERS = 64
# These messages say what the input was.
_QUOTING = {"uuid_parsing", "value_error", "assertion_error", "json_invalid"}

Model = TypeVar("Model", bound=BaseModel)


def check(model: type[Model], value: object) -> tuple[Model | None, list[Problem]]:
    """The value as a model, read as JSON in strict mode: a string may be a UUID there, but "12" is not 12.

    In a thread, what has very many parts is looked at beside this process first (`beside.py`)."""
    text = orjson.dumps(value)
    if marks.many(text) and (
        found := beside.problems({"model": f"{model.__module__}:{model.__qualname__}"}, text)
    ):
        return None, found
    return check_text(model, text)


def check_text(model: type[Model], text: bytes) -> tuple[Model | None, list[Problem]]:
    """As `check`, here and now."""
    try:
        return model.model_validate_json(text, strict=True), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return None, [_problem(detail) for detail in details[:MAX_PROBLEMS]]


def checked(model: type[Model], value: object) -> Model:
    """Like `check`, but raises Invalid with all problems."""
    found, problems = check(model, value)
    if found is None:
        raise Invalid(problems)
    return found


def pointer(*segments: Any) -> str:
    """A JSON pointer (RFC 6901). Long keys of the caller's are cut."""
    return "".join(
        "/" + str(one)[:_SEGMENT_CHARACTERS].replace("~", "~0").replace("/", "~1") for one in segments
    )


def _problem(detail: ErrorDetails) -> Problem:
    kind = detail["type"]
    said = "the value is not valid" if kind in _QUOTING else detail["msg"]
    location = [one for one in detail["loc"] if one != "[key]"]
    return Problem(pointer(*location), kind, said)
