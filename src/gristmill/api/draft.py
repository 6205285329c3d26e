"""The requests of a create while they are checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from gristmill import processors
from gristmill.api.problems import pointer
from gristmill.api.schemas import MAX_CUSTOM_ID, MAX_ITEMS
from gristmill.domain.errors import Problem
from gristmill.processors.agent_message import AgentMessage
from gristmill.processors.base import Processor

AnyProcessor = Processor[Any, Any]


@dataclass(slots=True)
class Draft:
    """Lists run parallel: one entry per request. `inputs` has None where an input is bad."""

    problems: list[Problem] = field(default_factory=list)
    custom_ids: list[str] = field(default_factory=list)
    raw_inputs: list[Any] = field(default_factory=list)
    inputs: list[BaseModel | None] = field(default_factory=list)
    nested: set[int] = field(default_factory=set)  # requests that hold their input under `input`
    without: set[int] = field(default_factory=set)  # requests without any input: said already

    def wrong(self, at: str, code: str, detail: str) -> None:
        self.problems.append(Problem(at, code, detail))

    def missing(self, at: str) -> None:
        self.wrong(at, "missing", "Field required")

    def input_at(self, index: int, *segments: Any) -> str:
        """A pointer to a field of a request's input, wherever the caller wrote it."""
        inside = ("input",) if index in self.nested else ()
        return pointer("requests", index, *inside, *segments)


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


def read_requests(requests: Sequence[Any], processor: AnyProcessor | None, draft: Draft) -> None:
    """Custom ids always, inputs if it is known what they are for."""
    seen: dict[str, int] = {}
    flat = processor is not None and processor.name == AgentMessage.name
    for index, request in enumerate(requests):
        if type(request) is dict:
            draft.custom_ids.append(_custom_id(index, request, seen, draft))
            draft.raw_inputs.append(_raw_input(index, request, flat, draft))
        else:
            draft.wrong(pointer("requests", index), "object_type", "Input should be an object")
            draft.custom_ids.append("")
            draft.raw_inputs.append(None)
            draft.without.add(index)
    if processor is not None:
        draft.inputs, found = processors.validate(processor, draft.raw_inputs)
        draft.problems += [_placed(one, draft) for one in found if _index(one) not in draft.without]


def _custom_id(index: int, request: dict[str, Any], seen: dict[str, int], draft: Draft) -> str:
    given = request.get("custom_id")
    if type(given) is str and 0 < len(given) <= MAX_CUSTOM_ID and seen.setdefault(given, index) == index:
        return given
    at = pointer("requests", index, "custom_id")
    if "custom_id" not in request:
        draft.missing(at)
    elif type(given) is not str:
        draft.wrong(at, "string_type", "Input should be a valid string")
    elif not given:
        draft.wrong(at, "string_too_short", "at least 1 character")
    elif len(given) > MAX_CUSTOM_ID:
        draft.wrong(at, "string_too_long", f"at most {MAX_CUSTOM_ID} characters")
    else:
        draft.wrong(at, "duplicate_custom_id", f"the same as in {pointer('requests', seen[given])}")
    return ""


def _raw_input(index: int, request: dict[str, Any], flat: bool, draft: Draft) -> Any:
    """The input of a request: its own `input`, or for agents the request itself without its custom_id."""
    if flat and "input" not in request:
        return {name: request[name] for name in request if name != "custom_id"}
    draft.nested.add(index)
    for name in request:
        if name not in ("custom_id", "input"):
            draft.wrong(pointer("requests", index, name), "extra_forbidden", "Extra inputs are not permitted")
    if "input" not in request:
        draft.missing(pointer("requests", index, "input"))
        draft.without.add(index)
    return request.get("input")


def _index(problem: Problem) -> int:
    return int(problem.pointer.split("/", 3)[2])


def _placed(problem: Problem, draft: Draft) -> Problem:
    """A finding about an input, with the pointer to where the caller wrote it."""
    index = _index(problem)
    if index not in draft.nested:
        return problem
    rest = problem.pointer.removeprefix(pointer("requests", index))
    return Problem(pointer("requests", index, "input") + rest, problem.code, problem.detail)
