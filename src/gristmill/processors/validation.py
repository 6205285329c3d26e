"""Checks inputs and configurations against a processor's models, before a row exists.

Always strict, whatever a model says: no coercion ("12" is not 12), no unknown fields. The check runs on JSON
and not on Python objects, because that is where strict still lets a UUID or a date be written as a string.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gristmill.domain import marks
from gristmill.domain.errors import Problem
from gristmill.processors.base import Processor

MAX_PROBLEMS = 100
# Inputs checked in one call, during which no other Python code runs: so many, or with so many characters of JSON; one alone
# may have more.
_CHUNK = 32
_CHUNK_CHARACTERS = 64 * 1024
_SEGMENT_CHARACTERS = 64
_DETAIL_CHARACTERS = 300

Checked = tuple[list[BaseModel | None], list[Problem]]
# The text of an input → what is wrong with it, as the first of its list; None: that is to be found out here.
Elsewhere = Callable[[str], list[Problem] | None]


class _Valid(BaseModel):
    """Stands for an input that is good and was not kept."""


VALID = _Valid()


def validate(
    processor: Processor[Any, Any],
    raw_inputs: Sequence[object],
    *,
    texts: Sequence[str] | None = None,
    inside: str = "",
    allow_private: bool = False,
    each: int | None = None,
    keep: bool = True,
    elsewhere: Elsewhere | None = None,
) -> Checked:
    """The inputs as models, None in the place of each bad one, and what is wrong: at most 100 problems in all, or at most
    `each` of every input.

    Pointers are `/requests/{index}{inside}/…`; `inside` is `/input` where requests have their input there.
    `texts`: the inputs as JSON, where that is there already. `allow_private` opens private addresses for fields of type
    `GuardedUrl`. Not `keep`: `VALID` in the place of each good one. `elsewhere` may find out about those that take long.
    """
    inputs: list[BaseModel | None] = []
    problems: list[Problem] = []
    for first, some in _chunks(map(_as_json, raw_inputs) if texts is None else texts):
        if elsewhere is not None and len(some) == 1 and (told := elsewhere(some[0])) is not None:
            inputs += [None] if told else _kept(processor, some, allow_private) if keep else [VALID]
            problems += [_renumbered(one, first) for one in told[: _left(problems, each)]]
            continue
        chunk = raw_inputs[first : first + len(some)]
        found, details = _check_chunk(processor.input_model, some, allow_private)
        if keep or details:
            inputs += found if keep else [None if one is None else VALID for one in found]
        else:
            inputs += [VALID] * len(found)
        few = details[: _left(problems, each)] if each is None else _few(details, each)
        problems += [_problem(chunk, detail, first, inside) for detail in few]
    return inputs, problems


def _left(problems: Sequence[Problem], each: int | None) -> int:
    """How many more may be told."""
    return MAX_PROBLEMS - len(problems) if each is None else each


def _kept(
    processor: Processor[Any, Any], texts: Sequence[str], allow_private: bool
) -> Sequence[BaseModel | None]:
    """Of inputs that are known to be good."""
    return _check(processor.input_model, texts, allow_private)


def _renumbered(problem: Problem, index: int) -> Problem:
    rest = problem.pointer.removeprefix("/requests/0")
    return Problem(f"/requests/{index}{rest}", problem.code, problem.detail)


def _as_json(raw: object) -> str:
    return orjson.dumps(raw).decode()


def _chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Each with the index of its first."""
    first, size = 0, 0
    chunk: list[str] = []
    for text in texts:
        if len(chunk) == _CHUNK or (chunk and size + len(text) > _CHUNK_CHARACTERS):
            yield first, chunk
            first, size, chunk = first + len(chunk), 0, []
        chunk.append(text)
        size += len(text)
    if chunk:
        yield first, chunk


def _check_chunk(
    model: type[BaseModel], texts: Sequence[str], allow_private: bool
) -> tuple[list[BaseModel | None], list[ErrorDetails]]:
    try:
        return list(_check(model, texts, allow_private)), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    bad = {detail["loc"][0] for detail in details}
    rest = [text for index, text in enumerate(texts) if index not in bad]
    good = iter(_check(model, rest, allow_private))
    return [None if index in bad else next(good) for index in range(len(texts))], details


def _few(details: Sequence[ErrorDetails], each: int) -> list[ErrorDetails]:
    seen = Counter[Any]()
    few = []
    for detail in details:
        index = detail["loc"][0]
        if seen[index] < each:
            few.append(detail)
        seen[index] += 1
    return few


def validate_config(
    processor: Processor[Any, Any], raw: object, *, pointer: str = "/config", allow_private: bool = False
) -> tuple[BaseModel | None, list[Problem]]:
    """The configuration as a model, or None and what is wrong with it (at most 100 problems)."""
    text = _as_json(raw)
    if marks.many(text):  # it is checked on the event loop
        detail = f"more than {marks.MANY} times {{, [ or a comma"
        return None, [Problem(pointer, "config_too_large", detail)]
    try:
        return _check(processor.config_model, [text], allow_private)[0], []
    except ValidationError as error:
        details = error.errors(include_url=False)[:MAX_PROBLEMS]
    return None, [
        Problem(pointer + _path(raw, detail["loc"][1:], detail["type"]), detail["type"], _detail(detail))
        for detail in details
    ]


def _check(model: type[BaseModel], texts: Sequence[str], allow_private: bool) -> list[BaseModel]:
    """All in one call: 1,000 small inputs in chunks take about 3 ms."""
    text, context = f"[{','.join(texts)}]", {"allow_private": allow_private}
    return _adapter(model).validate_json(text, strict=True, extra="forbid", context=context)


@cache
def _adapter(model: type[BaseModel]) -> TypeAdapter[list[BaseModel]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def _problem(chunk: Sequence[object], detail: ErrorDetails, first: int, inside: str) -> Problem:
    """`first` is the index of the chunk's first input."""
    at, *rest = detail["loc"]
    path = _path(chunk[int(at)], rest, detail["type"])
    return Problem(f"/requests/{first + int(at)}{inside}{path}", detail["type"], _detail(detail))


def _path(raw: object, location: Sequence[int | str], kind: str) -> str:
    """A JSON pointer to what the caller sent: pydantic's location without union members and the like."""
    segments: list[str] = []
    here = raw
    for position, key in enumerate(location):
        found, here = _inside(here, key)
        if found or (kind == "missing" and position == len(location) - 1):
            segments.append(str(key)[:_SEGMENT_CHARACTERS].replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{segment}" for segment in segments)


def _inside(here: object, key: int | str) -> tuple[bool, object]:
    """What is in `here` under the key, or `here` itself if there is nothing."""
    if isinstance(here, dict) and key in here:
        return True, here[key]
    if isinstance(here, list) and isinstance(key, int) and key < len(here):
        return True, here[key]
    return False, here


def _detail(detail: ErrorDetails) -> str:
    """Pydantic's sentence, unless it quotes what was sent."""
    kind, given = detail["type"], detail["input"]
    if kind == "uuid_parsing":
        return "Input should be a valid UUID"
    if kind == "union_tag_invalid":
        return f"Input should be one of: {detail['ctx']['expected_tags']}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if isinstance(given, str) and len(given) > 1 and given in message:
        return "Input is not valid"
    return message[:_DETAIL_CHARACTERS]
