"""Asking a model for JSON that validates against a schema, whatever its endpoint can do.

The ladder: `response_format` json_schema, a tool call with the schema as its parameters, json_object, plain text. The schema
is in the prompt each time, because few endpoints show it to the model. What an endpoint refuses by name is left out from then
on, for this model and schema, as long as the process lives: one schema that it cannot take must not spoil it for others.

An answer that does not validate is asked for once more, with what is wrong.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import orjson

from gristmill.domain.outcomes import ItemError
from gristmill.domain.usage import Call, Usage
from gristmill.processors.conversation import RESERVED_PARAMETERS, first_choice, text_of
from gristmill.processors.http import strict
from gristmill.processors.output_schema import Flaw, OutputSchema
from gristmill.processors.prompts import Message
from gristmill.upstream import usage
from gristmill.upstream.client import Upstream
from gristmill.upstream.errors import UpstreamError

RESERVED = RESERVED_PARAMETERS | {"response_format", "tool_choice"}  # decided here
MAX_ANSWER_CHARACTERS = 1_000_000
_QUOTED_CHARACTERS = 4000  # of a bad answer, when it is asked for again
_TOLD_FLAWS = 10
_NAME = "answer"  # of the schema and of the tool

Rung = Literal["json_schema", "tool", "json_object", "text"]
_LADDER: tuple[Rung, ...] = ("json_schema", "tool", "json_object", "text")
_REFUSING = frozenset({400, 404, 405, 415, 422, 501})
_NAMED: dict[Rung, re.Pattern[str]] = {
    "json_schema": re.compile(r"(?i)response.?format|schema|structured|guided|grammar"),
    "tool": re.compile(r"(?i)\btool|function"),
    "json_object": re.compile(r"(?i)response.?format|json.?(object|mode)"),
}
_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*)\n?```", re.DOTALL)
_MAX_REFUSALS = 4096

_refusals: OrderedDict[tuple[str, str, str, Rung], None] = OrderedDict()


class InvalidOutput(UpstreamError):
    """The model answered twice, and neither answer validates."""


class _Said(NamedTuple):
    text: str
    cut: bool  # the tokens ran out


class Asking:
    """One item's calls. Keeps count of what they use, also when one of them fails in the end."""

    def __init__(
        self, upstream: Upstream, model: str, request_id: str, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """`parameters` are passed through (temperature, max_tokens, …), but those that are decided here."""
        self._upstream = upstream
        self._model = model
        self._request_id = request_id
        self._body = {key: value for key, value in (parameters or {}).items() if key not in RESERVED}
        self._body["model"] = model
        self._calls: list[Call] = []
        self.asked_again = 0  # how many answers did not validate

    @property
    def usage(self) -> Usage | None:
        """Of all calls that were answered; the last of them is the main one."""
        if not self._calls:
            return None
        *earlier, main = self._calls
        before = tuple(
            Call(call.model, "tool_call", call.prompt_tokens, call.completion_tokens) for call in earlier
        )
        used = Usage(before, main)
        return Usage(before, main, self._upstream.cost(used.prompt_tokens, used.completion_tokens))

    async def ask(self, instructions: str, text: str | list[Message], schema: OutputSchema) -> Any:
        """The answer, which validates. `text`: or the parts of a message, such as an image.

        Raises InvalidOutput, any other UpstreamError.
        """
        messages: list[Message] = [
            {"role": "system", "content": f"{instructions}\n\n{_form_told(schema)}"},
            {"role": "user", "content": text},
        ]
        said = await self._say(messages, schema)
        value, flaws = _read(said, schema)
        if not flaws:
            return value
        self.asked_again += 1
        said = await self._say([*messages, *_complaint(said, flaws)], schema)
        value, flaws = _read(said, schema)
        if flaws:
            raise _invalid(said, flaws)
        return value

    async def _say(self, messages: list[Message], schema: OutputSchema) -> _Said:
        """By the first rung that the endpoint takes. A refusal counts as one once a lower rung has worked."""
        refused: list[Rung] = []
        for rung in self._rungs(schema):
            try:
                said = await self._post(rung, messages, schema)
            except UpstreamError as error:
                if not _refuses(rung, error.error):
                    raise
                refused.append(rung)
                continue
            for one in refused:
                _remember(self._key(schema, one))
            return said
        raise AssertionError("plain text is always tried")

    def _rungs(self, schema: OutputSchema) -> Iterator[Rung]:
        for rung in _LADDER:
            fits = schema.is_object or rung in ("json_schema", "text")
            if fits and self._key(schema, rung) not in _refusals:
                yield rung

    def _key(self, schema: OutputSchema, rung: Rung) -> tuple[str, str, str, Rung]:
        return self._upstream.endpoint, self._model, schema.digest, rung

    async def _post(self, rung: Rung, messages: list[Message], schema: OutputSchema) -> _Said:
        body = self._body | _form(rung, schema) | {"messages": messages}
        answer = await self._upstream.post("/chat/completions", body, request_id=self._request_id)
        self._calls.append(usage.call(body, answer.body))
        return _said(first_choice(answer.body))


def _form(rung: Rung, schema: OutputSchema) -> dict[str, Any]:
    match rung:
        case "json_schema":
            named = {"name": _NAME, "schema": schema.schema, "strict": schema.is_strict}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case "tool":
            function = {"name": _NAME, "description": "Takes the answer.", "parameters": schema.schema}
            return {
                "tools": [{"type": "function", "function": function}],
                "tool_choice": {"type": "function", "function": {"name": _NAME}},
            }
        case "json_object":
            return {"response_format": {"type": "json_object"}}
    return {}


def _form_told(schema: OutputSchema) -> str:
    return f"Answer with nothing but JSON that validates against this JSON Schema:\n{schema.text}"


def _refuses(rung: Rung, error: ItemError) -> bool:
    """The endpoint cannot do it this way: it says so by what the request held and a lower rung's will not."""
    named = _NAMED.get(rung)
    return named is not None and error.upstream_status in _REFUSING and bool(named.search(error.message))


def _remember(key: tuple[str, str, str, Rung]) -> None:
    _refusals[key] = None
    if len(_refusals) > _MAX_REFUSALS:
        _refusals.popitem(last=False)


def _said(choice: dict[str, Any]) -> _Said:
    """Raises UpstreamError where the model or its provider will not answer: asking again is of no use."""
    message, reason = choice["message"], choice.get("finish_reason")
    text = _arguments(message) or text_of(message | {"refusal": None})
    if not text.strip() and reason == "content_filter":
        what = "The provider's content filter withheld the answer."
        raise UpstreamError(ItemError(500, "content_filtered", what))
    if not text.strip() and message.get("refusal"):
        raise UpstreamError(ItemError(500, "model_refused", "The model refuses to answer this."))
    return _Said(text, reason == "length")


def _arguments(message: Message) -> str:
    """Of the first tool call, if there is one; some endpoints send them as an object."""
    try:
        arguments = message["tool_calls"][0]["function"]["arguments"]
    except (KeyError, IndexError, TypeError):
        return ""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


def _read(said: _Said, schema: OutputSchema) -> tuple[Any, list[Flaw]]:
    """The value, and what is wrong with it. One code fence around it is no fault."""
    if len(said.text) > MAX_ANSWER_CHARACTERS:
        return None, [Flaw(f"It has more than {MAX_ANSWER_CHARACTERS} characters.", "its length")]
    bare = said.text.strip()
    fenced = _FENCED.fullmatch(bare)
    try:
        value = strict((fenced[1] if fenced else bare).encode())
    except ValueError:
        what = "It was cut off before its end." if said.cut else "It is not one JSON text, and nothing else."
        return None, [Flaw(what, "the form of JSON")]
    return value, schema.flaws(value, _TOLD_FLAWS)


def _complaint(said: _Said, flaws: list[Flaw]) -> list[Message]:
    """The answer as far as it helps, and what is wrong with it."""
    listed = "\n".join(f"- {flaw.told}" for flaw in flaws)
    wanted = "Answer again: the corrected JSON, whole, and nothing else."
    if said.cut:
        wanted += " Make it shorter."
    return [
        {"role": "assistant", "content": said.text[:_QUOTED_CHARACTERS] or "(nothing)"},
        {"role": "user", "content": f"That does not validate:\n{listed}\n{wanted}"},
    ]


def _invalid(said: _Said, flaws: list[Flaw]) -> InvalidOutput:
    """Names places in the schema, nothing of the answer: it may hold what the document does."""
    broken = ", ".join(dict.fromkeys(flaw.rule or "the schema" for flaw in flaws[:3]))
    message = f"The model's answer does not validate, and did not when asked again: it breaks {broken}."
    if said.cut:
        message += " It was cut off at the limit of tokens."
        suggestion = "Raise max_tokens in parameters, or ask for less: fewer pages, shorter fields."
        return InvalidOutput(ItemError(500, "invalid_output", message, suggestion=suggestion))
    suggestion = "Make the schema simpler, say more in the instructions, or use a more capable model."
    error = ItemError(500, "invalid_output", message, retryable=True, suggestion=suggestion)
    return InvalidOutput(error)
