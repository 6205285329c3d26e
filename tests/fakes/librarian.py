"""A model that tags and mends: its answers are computed from the prompt, and some of them go wrong, as told by a seed.

    llm.script = Librarian(seed=1, invented=0.3)

`told` counts what it slipped in. Tags are the most frequent long words of what the user sent, written carelessly: in capitals,
with a hash, some twice, so that whoever reads them has something to make alike. Mended Markdown has its torn words joined.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fakes.answers import tokens
from fakes.wire import Request

_WANTED = re.compile(r"Name (\d+) tags")
_WORD = re.compile(r"[^\W\d_]{5,}")
_TORN = re.compile(r"(\w)-\n(\w)")
_AGAIN = "That does not validate"
INVENTED = (
    "\n\nThe committee of owls has decided to paint the moon in green, and then all of the stars in yellow."
)


@dataclass
class Librarian:
    """`invalid`: share of first answers that are no JSON. `invented`: share of mended pieces with a passage of its own."""

    seed: int = 0
    invalid: float = 0.0
    invented: float = 0.0
    told: Counter[str] = field(default_factory=Counter)

    def __call__(self, request: Request) -> tuple[int, dict[str, Any]]:
        system, user, *more = [one["content"] for one in request.body["messages"]]
        wanted = _WANTED.search(system)
        text = self._tags(int(wanted[1]), user, bool(more)) if wanted else self._mended(user)
        return 200, _answer(request, text)

    def _tags(self, wanted: int, user: str, again: bool) -> str:
        self.told["asked"] += not again
        if not again and self._happens(self.invalid, user):
            self.told["invalid"] += 1
            return '{"tags": ["half a'
        words = most_frequent(user)[:wanted]
        careless = [word.title() if n % 2 else f"# {word} " for n, word in enumerate(words)]
        return json.dumps({"tags": careless + careless[:2]}, ensure_ascii=False)

    def _mended(self, user: str) -> str:
        joined = _TORN.sub(r"\1\2", user)
        if self._happens(self.invented, user):
            self.told["invented"] += 1
            return joined + INVENTED
        self.told["mended"] += 1
        return f"```markdown\n{joined}\n```"

    def _happens(self, share: float, text: str) -> bool:
        digest = hashlib.sha256(f"{self.seed} {text}".encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32 < share


def most_frequent(text: str) -> list[str]:
    """Words of five letters and more, the most frequent first, and alphabetically among those."""
    counted = Counter(word.lower() for word in _WORD.findall(text))
    return [word for word, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))]


def _answer(request: Request, text: str) -> dict[str, Any]:
    prompt, completion = tokens(json.dumps(request.body["messages"])), tokens(text)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "chatcmpl-l",
        "object": "chat.completion",
        "model": request.body.get("model", "fake-model"),
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }
