"""Asking the model until it answers: each round of tool calls is run, its results are told to the model."""

import asyncio
from typing import Any

from gristmill.domain.outcomes import ItemError, Outcome, Success
from gristmill.domain.usage import Call, Usage
from gristmill.processors.prompts import Message
from gristmill.processors.tools import Tools
from gristmill.upstream import usage
from gristmill.upstream.client import Upstream
from gristmill.upstream.errors import UpstreamError, bad_answer

MAX_ROUNDS = 10
MAX_CALLS_PER_ROUND = 32
# What an agent's parameters may not hold: these are decided here.
RESERVED_PARAMETERS = frozenset(
    {"messages", "model", "stream", "stream_options", "n", "tools", "functions", "function_call"}
)


class Conversation:
    """One item's calls to the model. Keeps count of what they use, also when one of them fails in the end."""

    def __init__(
        self, upstream: Upstream, model: str, parameters: dict[str, Any], tools: Tools, request_id: str
    ) -> None:
        self._upstream = upstream
        self._tools = tools
        self._request_id = request_id
        self._tool_calls: list[Call] = []
        self._body = {key: value for key, value in parameters.items() if key not in RESERVED_PARAMETERS}
        self._body["model"] = model
        if tools.definitions:
            self._body["tools"] = tools.definitions
        else:
            self._body.pop("tool_choice", None)

    async def answer(self, messages: list[Message]) -> Outcome:
        """At most MAX_ROUNDS rounds of tools, which extend `messages`; then the model has to answer."""
        try:
            for _ in range(MAX_ROUNDS):
                choice, call = await self._ask(messages)
                asked = choice["message"].get("tool_calls") if self._tools.definitions else None
                if not asked:
                    return self._ended(choice, call)
                self._tool_calls.append(
                    Call(call.model, "tool_call", call.prompt_tokens, call.completion_tokens)
                )
                messages += await self._run_tools(choice["message"], asked)
                # A choice that forces a tool is for the first round only: it would never end.
                self._body.pop("tool_choice", None)
            self._body["tool_choice"] = "none"
            return self._ended(*await self._ask(messages))
        except UpstreamError as error:
            return error.outcome(self._usage(None))

    async def _ask(self, messages: list[Message]) -> tuple[dict[str, Any], Call]:
        body = self._body | {"messages": messages}
        answer = await self._upstream.post("/chat/completions", body, request_id=self._request_id)
        return first_choice(answer.body), usage.call(body, answer.body)

    async def _run_tools(self, message: Message, asked: list[Any]) -> list[Message]:
        """The model's request as it goes back into the conversation, and each tool's result."""
        calls = _tool_calls(asked)
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
        cost = self._upstream.cost(used.prompt_tokens, used.completion_tokens)
        return Usage(used.tool_calls, main, cost) if used.calls else None


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


def _tool_calls(asked: object) -> list[tuple[str, str, object]]:
    """(id, name, arguments) of each. Raises UpstreamError."""
    if not isinstance(asked, list) or len(asked) > MAX_CALLS_PER_ROUND:
        raise bad_answer(f"it asks for something else than 1 to {MAX_CALLS_PER_ROUND} tool calls")
    try:
        calls = [(call["id"], call["function"]["name"], call["function"].get("arguments")) for call in asked]
    except (KeyError, TypeError, AttributeError):
        raise bad_answer("its tool calls lack an id or a name") from None
    if not all(isinstance(identifier, str) and isinstance(name, str) for identifier, name, _ in calls):
        raise bad_answer("its tool calls lack an id or a name")
    return calls


def _empty(finish_reason: object) -> UpstreamError:
    if finish_reason == "content_filter":
        return UpstreamError(
            ItemError(500, "content_filtered", "The provider's content filter withheld the answer.")
        )
    if finish_reason == "length":
        message = "The model used up its tokens before it answered."
        suggestion = "Raise max_tokens in the agent's parameters."
        return UpstreamError(ItemError(500, "empty_answer", message, suggestion=suggestion))
    return UpstreamError(ItemError(500, "empty_answer", "The model's answer is empty.", retryable=True))
