"""What the model calls of one item used, in the shape of seed 004's `response_usage`."""

from dataclasses import dataclass
from typing import Any, Literal

CallType = Literal["tool_call", "main_response"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model. Tokens as the provider counted them."""

    model: str
    call_type: CallType
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "call_type": self.call_type,
            "total_tokens": self.total_tokens,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """All calls of one item: those that asked for tools, and the one that gave the answer.

    Sums are derived, so they cannot disagree: total = prompt + completion = sum over calls.
    `cost_microusd` is in millionths of a US dollar; None when no price is configured.
    """

    tool_calls: tuple[Call, ...] = ()
    main_response: Call | None = None
    cost_microusd: int | None = None

    @property
    def calls(self) -> tuple[Call, ...]:
        return self.tool_calls if self.main_response is None else (*self.tool_calls, self.main_response)

    @property
    def prompt_tokens(self) -> int:
        return sum([call.prompt_tokens for call in self.calls])

    @property
    def completion_tokens(self) -> int:
        return sum([call.completion_tokens for call in self.calls])

    def as_json(self) -> dict[str, Any]:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "tool_calls": [call.as_json() for call in self.tool_calls],
            "total_calls": len(self.calls),
            "total_tokens": prompt + completion,
            "main_response": self.main_response.as_json() if self.main_response else None,
            "total_prompt_tokens": prompt,
            "total_completion_tokens": completion,
        }
