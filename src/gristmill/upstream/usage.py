"""What one answered call used. The provider's own count is the truth; where it sends none, characters / 4."""

from typing import Any

from gristmill import metrics
from gristmill.domain.usage import Call, CallType

_CHARACTERS_PER_TOKEN = 4
_MAX_TOKENS = 2**31 - 1
_MODEL_CHARACTERS = 256
_MAX_DEPTH = 32
_TEXT_KEYS = frozenset(
    {"messages", "input", "instructions", "content", "text", "output", "choices", "message", "arguments"}
)


def call(sent: dict[str, Any], answer: dict[str, Any], call_type: CallType = "main_response") -> Call:
    """From the bodies of a request and its answer, on `/chat/completions`, `/embeddings` or `/responses`.

    Counts it in the metrics, too.
    """
    prompt, completion = tokens(sent, answer)
    model = answer.get("model") or sent.get("model")
    metrics.upstream_tokens(prompt, completion)
    return Call(str(model)[:_MODEL_CHARACTERS], call_type, prompt, completion)


def tokens(sent: dict[str, Any], answer: dict[str, Any]) -> tuple[int, int]:
    """Of the prompt and of the answer."""
    found = answer.get("usage")
    usage = found if isinstance(found, dict) else {}
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    if prompt is None:
        prompt = _estimate(sent)
    if completion is None:
        completion = 0 if usage else _estimate(answer)
    return prompt, completion


def expected(sent: dict[str, Any]) -> tuple[int, int]:
    """How many tokens a call may use, before it is made: its characters / 4; and with the longest answer that it allows."""
    prompt = _estimate(sent)
    longest = _count(sent, "max_tokens", "max_completion_tokens", "max_output_tokens") or 0
    return prompt, min(prompt + longest * (_count(sent, "n") or 1), _MAX_TOKENS)


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if type(value) is int and 0 <= value <= _MAX_TOKENS:
            return value
    return None


def _estimate(body: dict[str, Any]) -> int:
    return -(-_characters(body) // _CHARACTERS_PER_TOKEN)


def _characters(value: object, depth: int = 0) -> int:
    """Of the text in a body; images and vectors count nothing, nor does what no real body nests so deeply."""
    if isinstance(value, str):
        return len(value)
    if depth == _MAX_DEPTH:
        return 0
    if isinstance(value, list):
        return sum(_characters(inner, depth + 1) for inner in value)
    if isinstance(value, dict):
        return sum(_characters(inner, depth + 1) for key, inner in value.items() if key in _TEXT_KEYS)
    return 0
