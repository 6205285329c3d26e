"""A model that computes JSON from its prompt, and goes wrong by a seed: for processors that ask for JSON.

    llm.script = Script(seed=1, invalid=0.1, invented=0.1, refuses={"json_schema"})

It reads the schema out of the request wherever it stands, fills it from the text, and notes in `told` what it slipped in, so
that a test can say exactly what must follow. What it decides depends on seed and prompt alone, not on the order of the calls.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fakes.answers import tokens
from fakes.wire import Request, error

_SCHEMA = re.compile(r"JSON Schema:\n(.*)", re.DOTALL)
_SENTENCE = re.compile(r"\S[^.!?\n]{20,200}[.!?]")
_AGAIN = "That does not validate"
INVENTED = "The committee of owls has decided to paint the moon in green."


@dataclass
class Script:
    """`refuses`: forms that get a 400 which names them. `invalid`, `invented`: shares from 0 to 1."""

    seed: int = 0
    invalid: float = 0.0  # of first answers: no JSON
    hopeless: bool = False  # then the second answers are no JSON either
    invented: float = 0.0  # of passages: not in the text
    refuses: set[str] = field(default_factory=set)
    pairs: int = 3
    told: Counter[str] = field(default_factory=Counter)
    forms: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> tuple[int, dict[str, Any]]:
        form = _form(request.body)
        self.forms.append(form)
        if form in self.refuses:
            self.told["refused"] += 1
            named = "tools" if form == "tool" else f"response_format.{form}"
            return 400, error(f"{named} is not supported by this model")
        text = self._text(request)
        return 200, _answer(request, form, text)

    def _text(self, request: Request) -> str:
        messages = request.body["messages"]
        again = _AGAIN in messages[-1]["content"]
        prompt = messages[1]["content"]
        if self._happens(self.invalid, "invalid", prompt) and (self.hopeless or not again):
            self.told["invalid"] += 1
            return '{"title": "half a'
        found = _SCHEMA.search(messages[0]["content"])
        assert found, "the prompt has no schema"
        schema = json.loads(found[1])
        return json.dumps(self._value(schema, prompt), ensure_ascii=False)

    def _value(self, schema: dict[str, Any], prompt: str) -> Any:
        if "pairs" in schema.get("properties", {}):
            return {"pairs": self._pairs(schema, prompt)}
        return _filled(schema, prompt)

    def _pairs(self, schema: dict[str, Any], prompt: str) -> list[dict[str, str]]:
        most = schema["properties"]["pairs"].get("maxItems", self.pairs)
        worth = [one for one in _SENTENCE.findall(prompt) if len("".join(one.split())) >= 20]
        sentences = worth[: min(self.pairs, most)]
        self.told["pairs"] += len(sentences)
        return [self._pair(sentence) for sentence in sentences]

    def _pair(self, sentence: str) -> dict[str, str]:
        passage = sentence
        if self._happens(self.invented, "invented", sentence):
            self.told["invented"] += 1
            passage = INVENTED
        return {"question": f"What is said by: {sentence}?", "answer": sentence, "passage": passage}

    def _happens(self, share: float, what: str, text: str) -> bool:
        digest = hashlib.sha256(f"{self.seed} {what} {text}".encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32 < share


def _form(body: dict[str, Any]) -> str:
    if "response_format" in body:
        return str(body["response_format"]["type"])
    return "tool" if body.get("tools") else "text"


def _filled(schema: dict[str, Any], text: str) -> Any:
    """Something of the text for each part of the schema."""
    if "enum" in schema:
        return schema["enum"][len(text) % len(schema["enum"])]
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _filled(inner, text) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        words = re.findall(r"\b[A-Z][a-z]+\b", text)[: schema.get("maxItems", 3)]
        return [_filled(schema.get("items", {}), word) for word in dict.fromkeys(words[:3])]
    scalars = {"integer": len(text), "number": len(text) / 2, "boolean": bool(text), "null": None}
    return scalars[kind] if kind in scalars else " ".join(text.split())[: schema.get("maxLength", 60)]


def _answer(request: Request, form: str, text: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if form == "tool":
        call = {"id": "call_1", "type": "function", "function": {"name": "answer", "arguments": text}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    prompt, completion = tokens(json.dumps(request.body["messages"])), tokens(text)
    used = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    model = request.body.get("model", "fake-model")
    return {
        "id": "chatcmpl-s",
        "object": "chat.completion",
        "model": model,
        "choices": [choice],
        "usage": used,
    }
