"""Asking the model until it answers: each round of tool calls is run, its results are told to the model."""

import asyncio
from typing import Any

from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success
from gristmill.domain.usage import Call, Usage
from gristmill.processors.prompts import Message
from gristmill.processors.tools import Tools
from gristmill.upstream import usage
from gristmill.upstream.client import Upstream
from gristmill.upstream.errors import UpstreamError, bad_answer

MAX_ROUNDS = 10
MAX_CALLS_PER_ROUND = 32
RESERVED = frozenset({"messages", "model", "stream", "stream_options", "n", "tools", "functions", "function_call"})


class Conversation:
    """One item's calls to the model. Keeps count of what they use, also when one of them fails in the end."""

    def __init__(
        self, upstream: Upstream, model: str, parameters: dict[str, Any], tools: Tools, request_id: str
    ) -> None:
        self._upstream = upstream
        self._tools = tools
        self._request_id = request_id
        self._tool_calls: list[Call] = []
        self._body = {key: value for key, value in parameters.items() if key not in RESERVED} | {"model": model}
        if tools.definitions:
            self._body["tools"] = tools.definitions
        else:
            self._body.pop("tool_choice", None)

    async def answer(self, messages: list[Message]) -> Outcome:
        """Extends `messages` by what the rounds add. At most MAX_ROUNDS rounds of tools, then the model has to answer."""
        try:
            for round_number in range(MAX_ROUNDS + 1):
                choice, call = await self._ask(messages, last=round_number == MAX_ROUNDS)
                asked = choice["message"].get("tool_calls") if self._tools.definitions else None
                if not asked or round_number == MAX_ROUNDS:
                    return self._ended(choice, call)
                self._tool_calls.append(Call(call.model, "tool_call", call.prompt_tokens, call.completion_tokens))
                messages += await self._run_tools(choice["message"], asked)
                # A choice that forces a tool is for the first round only: it would never end.
                self._body.pop("tool_choice", None)
        except UpstreamError as error:
            return error.outcome(self._usage(None))
        raise AssertionError("the last round always answers")

    async def _ask(self, messages: list[Message], *, last: bool) -> tuple[dict[str, Any], Call]:
        body = self._body | {"messages": messages}
        if last and self._tools.definitions:
            body["tool_choice"] = "none"
        answer = await self._upstream.post("/chat/completions", body, request_id=self._request_id)
        return first_choice(answer.body), usage.call(body, answer.body)

    async def _run_tools(self, message: Message, asked: list[Any]) -> list[Message]:
        """The model's request as it goes back into the conversation, and each tool's result."""
        if len(asked) > MAX_CALLS_PER_ROUND:
            raise bad_answer(f"asks for {len(asked)} tool calls at once")
        try:
            calls = [(call["id"], call["function"]["name"], call["function"].get("arguments")) for call in asked]
        except (KeyError, TypeError, AttributeError):
            raise bad_answer("its tool calls lack an id or a name") from None
        results = await asyncio.gather(*(self._tools.call(name, arguments) for _, name, arguments in calls))
        told = [
            {"role": "tool", "tool_call_id": identifier, "content": result}
            for (identifier, _, _), result in zip(calls, results, strict=True)
        ]
        return [{"role": "assistant", "content": message.get("content"), "tool_calls": asked}, *told]

    def _ended(self, choice: dict[str, Any], call: Call) -> Outcome:
        content = text_of(choice["message"])
        used = self._usage(call)
        if content.strip():
            return Success(content=content, usage=used)
        return _empty(choice.get("finish_reason")).outcome(used)

    def _usage(self, main: Call | None) -> Usage | None:
        used = Usage(tuple(self._tool_calls), main)
        if not used.calls:
            return None
        return Usage(
            used.tool_calls, main, self._upstream.cost(used.prompt_tokens, used.completion_tokens)
        )


def first_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """`choices[0]`, which has a `message` object. Raises UpstreamError."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise bad_answer("it has no choice with a message")
    return choice


def text_of(message: Message) -> str:
    """The answer's text. Some endpoints send a list of parts; a refusal is an answer, too."""
    content = message.get("content") or message.get("refusal")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _empty(finish_reason: object) -> UpstreamError:
    if finish_reason == "content_filter":
        error = ItemError(500, "content_filtered", "The provider's content filter withheld the answer.")
    elif finish_reason == "length":
        suggestion = "Raise max_tokens in the agent's parameters."
        message = "The model used up its tokens before it answered."
        error = ItemError(500, "empty_answer", message, suggestion=suggestion)
    else:
        error = ItemError(500, "empty_answer", "The model answered with an empty message.", retryable=True)
    return UpstreamError(error)


__all__ = ["MAX_ROUNDS", "RESERVED", "Conversation", "Failure", "first_choice", "text_of"]
