"""From an answer of `/chat/completions` to a message of Anthropic's Messages API. Pure."""

from typing import Any

import orjson

from gristmill.processors.conversation import text_of
from gristmill.upstream.errors import bad_answer

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message(choice: dict[str, Any], answer: dict[str, Any], identifier: str) -> dict[str, Any]:
    """`choice` is the answer's first, with a message in it. Raises UpstreamError for tool calls that are none."""
    said: dict[str, Any] = choice["message"]
    text = text_of(said)
    calls = [_tool_use(call) for call in said.get("tool_calls") or ()]
    reason, sequence = _stop(choice, said, has_calls=bool(calls))
    return {
        "id": identifier,
        "type": "message",
        "role": "assistant",
        "model": answer.get("model"),
        "content": [*([{"type": "text", "text": text}] if text else []), *calls],
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": _usage(answer.get("usage")),
    }


def _stop(choice: dict[str, Any], said: dict[str, Any], *, has_calls: bool) -> tuple[str, str | None]:
    """Which sequence stopped it, some endpoints say (vLLM: `stop_reason`); where none is said, the turn has ended."""
    if has_calls:
        return "tool_use", None
    if said.get("refusal") and not said.get("content"):
        return "refusal", None
    finished = choice.get("finish_reason")
    reason = _STOP_REASONS.get(finished, "end_turn") if isinstance(finished, str) else "end_turn"
    sequence = choice.get("stop_reason")
    if reason == "end_turn" and isinstance(sequence, str):
        return "stop_sequence", sequence
    return reason, None


def _tool_use(call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        given = orjson.loads(function.get("arguments") or "{}")
        found = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": given}
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError):
        raise bad_answer("its tool calls lack an id, a name, or arguments that are JSON") from None
    if not isinstance(given, dict):
        raise bad_answer("the arguments of a tool call are no object")
    return found


def _usage(given: Any) -> dict[str, Any]:
    """Tokens that came out of a cache count apart, as Anthropic counts them."""
    usage = given if isinstance(given, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else 0
    return {
        "input_tokens": max(_count(usage, "prompt_tokens") - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(usage, "completion_tokens"),
    }


def _count(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    return value if type(value) is int and value >= 0 else 0
