"""What a batch's list of webhooks keeps of each, and the body that each gets: pure.

A dialect gives its clients the events in their own words by a `Wire`: `NewBatch.webhooks` of a batch that
`api/create.new_batch` has made, each `dataclasses.replace`d with one, before it is stored. Names and statuses then come from
`Wire.words`, and an event that is not among its words is not sent. They may tell ends apart that are one event here: EXPIRED
is a `failed` whose reason was the deadline, FRUITLESS a `completed` of which nothing has succeeded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import orjson


class Signature(StrEnum):
    """How a delivery is signed (net/signing.py); a webhook may want several at once."""

    STANDARD = "standard"  # webhook-signature, of Standard Webhooks 1.0.0
    CODEER = "codeer"  # X-Codeer-Signature, of seed 004
    LLAMACLOUD = "llamacloud"  # LC-Signature, over the body alone


EXPIRED, FRUITLESS = "expired", "fruitless"
DEFAULT_SIGNATURES = (Signature.STANDARD, Signature.CODEER)


class Form(StrEnum):
    EVENT = "event"  # as every webhook gets it
    FLAT = "flat"  # {event_id, event_type, timestamp, data}
    QUOTED = "quoted"  # the text of that, as one JSON string


@dataclass(frozen=True, slots=True)
class Wire:
    """An event in another system's words. `words`: event → (type, status) there; `shown_id`: the batch's id there."""

    form: Form
    words: Mapping[str, tuple[str, str]]
    shown_id: str | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """One of a batch's `webhooks`. `sealed`: {secret, headers} as JSON, encrypted and bound to `binding(batch, position)`; or
    {endpoint}: the id of a kept one, whose URL, secret and headers are looked up whenever it is told of something."""

    url: str
    events: tuple[str, ...]
    signatures: tuple[Signature, ...] = DEFAULT_SIGNATURES
    sealed: bytes | None = None
    wire: Wire | None = None

    def knows(self, event: str) -> bool:
        """Whether it has a word of its own for it."""
        return self.wire is not None and event in self.wire.words

    def wants(self, event: str) -> bool:
        return event in self.events and (self.wire is None or event in self.wire.words)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is sealed, in clear: never logged. `former`: the secret before, while it is to sign beside the new one."""

    secret: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    former: str | None = None

    def __repr__(self) -> str:
        return "Secrets()"

    @classmethod
    def of(cls, found: Mapping[str, Any], now: float) -> "Secrets":
        """From the JSON. `now` in Unix seconds."""
        former = found.get("former")
        valid = former is not None and now < former["until"]
        return cls(found["secret"], found["headers"], former["secret"] if former and valid else None)


def binding(batch_id: object, position: int | None) -> str:
    """What the encrypted part of a webhook is bound to; None: that of the batch's single `webhook`."""
    return f"webhook:{batch_id}" if position is None else f"webhook:{batch_id}:{position}"


def as_json(hooks: Sequence[Hook]) -> str | None:
    """As a batch keeps them; None: it has none."""
    if not hooks:
        return None
    rows = [asdict(hook) | {"sealed": hook.sealed.hex() if hook.sealed else None} for hook in hooks]
    return orjson.dumps(rows).decode()


def from_json(text: str | None) -> list[Hook]:
    return [] if text is None else [_hook(**row) for row in orjson.loads(text)]


def _hook(
    url: str, events: list[str], signatures: list[str], sealed: str | None, wire: dict[str, Any] | None
) -> Hook:
    return Hook(
        url,
        tuple(events),
        tuple(Signature(one) for one in signatures),
        None if sealed is None else bytes.fromhex(sealed),
        None if wire is None else _wire(**wire),
    )


def _wire(form: str, words: dict[str, list[str]], shown_id: str | None) -> Wire:
    return Wire(Form(form), {event: (type_, status) for event, (type_, status) in words.items()}, shown_id)


def body_for(hook: Hook, event: str, body: str) -> str | None:
    """The body this webhook gets instead of an event's own; None: that one."""
    if hook.wire is None:
        return None
    told = orjson.loads(body)
    told["type"], told["data"]["status"] = hook.wire.words[event]
    told["event"] = told["type"]
    told["data"]["id"] = hook.wire.shown_id or told["data"]["id"]
    if hook.wire.form is Form.EVENT:
        return orjson.dumps(told).decode()
    flat = {
        "event_id": told["id"],
        "event_type": told["type"],
        "timestamp": told["created_at"],
        "data": told["data"],
    }
    text = orjson.dumps(flat).decode()
    return orjson.dumps(text).decode() if hook.wire.form is Form.QUOTED else text
