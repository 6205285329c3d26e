"""The requests of a create while they are checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from pydantic import BaseModel

from gristmill import processors
from gristmill.domain import marks
from gristmill.domain.errors import Problem
from gristmill.intake.beside import beside
from gristmill.intake.problems import pointer
from gristmill.processors.agent_message import AgentMessage
from gristmill.processors.base import Processor

AnyProcessor = Processor[Any, Any]
MAX_ITEMS = 1000
MAX_ITEM_BYTES = 1024 * 1024
MAX_CUSTOM_ID = 256
_ABSENT = object()


@dataclass(slots=True)
class Draft:
    """Lists run parallel: one entry per request. `inputs` has None where an input is bad, and `validation.VALID` where it is
    good and nobody asks for more."""

    problems: list[Problem] = field(default_factory=list)
    allow_private: bool = False  # as the setting is: for URLs among the inputs
    custom_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # the inputs as JSON
    inputs: list[BaseModel | None] = field(default_factory=list)
    nested: set[int] = field(default_factory=set)  # requests that hold their input under `input`
    without: set[int] = field(default_factory=set)  # requests without any input: said already
    unnamed: set[int] = field(default_factory=set)  # requests that no result could be told apart by
    refused: dict[int, list[Problem]] = field(default_factory=dict)  # requests to be stored as failed

    def wrong(self, at: str, code: str, detail: str) -> None:
        self.problems.append(Problem(at, code, detail))

    def missing(self, at: str) -> None:
        self.wrong(at, "missing", "Field required")

    def input_at(self, index: int, *segments: Any) -> str:
        """A pointer to a field of a request's input, wherever the caller wrote it."""
        inside = ("input",) if index in self.nested else ()
        return pointer("requests", index, *inside, *segments)

    def set_aside(self) -> None:
        """What is wrong with single requests becomes their own failure, as far as they have a custom_id to fail under."""
        left = []
        for problem in self.problems:
            index = request_of(problem)
            if index is None or index in self.unnamed:
                left.append(problem)
            else:
                self.refused.setdefault(index, []).append(problem)
        self.problems = left


def is_list(requests: object, draft: Draft) -> bool:
    if not isinstance(requests, list):
        draft.wrong("/requests", "list_type", "Input should be a valid array")
    elif not requests:
        draft.wrong("/requests", "too_short", "at least 1 request")
    elif len(requests) > MAX_ITEMS:
        draft.wrong("/requests", "too_long", f"at most {MAX_ITEMS} requests")
    else:
        return True
    return False


def read_requests(
    requests: Sequence[Any], processor: AnyProcessor | None, draft: Draft, *, each: int | None = None
) -> None:
    """Custom ids always, inputs if it is known what they are for. Takes the requests apart: they are not copied, and empty
    afterwards.

    Of problems with inputs 100 are told, or `each` of every input."""
    seen: dict[str, int] = {}
    raw_inputs: list[Any] = []
    # Where it is not known what they are for, either form may be right.
    flat = processor is None or processor.name == AgentMessage.name
    for index, request in enumerate(requests):
        if type(request) is not dict:
            _refuse_request(index, draft)
            raw_inputs.append(None)
            continue
        custom_id = request.pop("custom_id", _ABSENT)
        if type(custom_id) is str and 0 < len(custom_id) <= MAX_CUSTOM_ID and custom_id not in seen:
            seen[custom_id] = index
        else:
            _refuse_custom_id(index, custom_id, seen, draft)
        draft.custom_ids.append(custom_id)
        raw_inputs.append(request if flat and "input" not in request else _own_input(index, request, draft))
    # Not kept as bytes: those have the room in which they were written, eight times that of a long text.
    draft.texts = [orjson.dumps(raw).decode() for raw in raw_inputs]
    if processor is not None:
        draft.inputs, found = processors.validate(
            processor,
            raw_inputs,
            texts=draft.texts,
            allow_private=draft.allow_private,
            each=each,
            keep=processor.has_chats or processor.has_names,
            elsewhere=partial(_problems_beside, processor.name, draft.allow_private, each),
        )
        draft.problems += [_placed(one, draft) for one in found if _index(one) not in draft.without]
    _empty(requests, raw_inputs)


def _problems_beside(
    processor: str, allow_private: bool, each: int | None, text: str
) -> list[Problem] | None:
    if not marks.many(text):
        return None
    order = {"processor": processor, "allow_private": allow_private, "each": each}
    return beside.problems(order, text)


def _empty(requests: Sequence[Any], raw_inputs: list[Any]) -> None:
    """One by one: to free a million values at once, and wherever the last of them is let go of, keeps all others waiting."""
    while raw_inputs:
        raw_inputs.pop()
    for request in requests:
        if type(request) is dict:
            request.clear()


def _refuse_request(index: int, draft: Draft) -> None:
    draft.wrong(pointer("requests", index), "object_type", "Input should be an object")
    draft.custom_ids.append("")
    draft.without.add(index)
    draft.unnamed.add(index)


def _refuse_custom_id(index: int, given: object, seen: dict[str, int], draft: Draft) -> None:
    at = pointer("requests", index, "custom_id")
    draft.unnamed.add(index)
    if given is _ABSENT:
        draft.missing(at)
    elif not isinstance(given, str):
        draft.wrong(at, "string_type", "Input should be a valid string")
    elif not given:
        draft.wrong(at, "string_too_short", "at least 1 character")
    elif len(given) > MAX_CUSTOM_ID:
        draft.wrong(at, "string_too_long", f"at most {MAX_CUSTOM_ID} characters")
    else:
        draft.wrong(at, "duplicate_custom_id", f"the same as in {pointer('requests', seen[given])}")


def _own_input(index: int, request: dict[str, Any], draft: Draft) -> Any:
    """What a request holds under `input`, and nothing else beside it."""
    draft.nested.add(index)
    if len(request) == 1 and "input" in request:
        return request["input"]
    for name in request:
        if name != "input":
            draft.wrong(pointer("requests", index, name), "extra_forbidden", "Extra inputs are not permitted")
    if "input" not in request:
        draft.missing(pointer("requests", index, "input"))
        draft.without.add(index)
    return request.get("input")


def request_of(problem: Problem) -> int | None:
    """The index of the request it is about, if it is about one."""
    _, *segments = problem.pointer.split("/", 3)
    return int(segments[1]) if len(segments) > 1 and segments[0] == "requests" else None


def _index(problem: Problem) -> int:
    return int(problem.pointer.split("/", 3)[2])


def _placed(problem: Problem, draft: Draft) -> Problem:
    """A finding about an input, with the pointer to where the caller wrote it."""
    index = _index(problem)
    if index not in draft.nested:
        return problem
    rest = problem.pointer.removeprefix(pointer("requests", index))
    return Problem(pointer("requests", index, "input") + rest, problem.code, problem.detail)
