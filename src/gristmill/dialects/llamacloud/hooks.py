"""Webhooks as that system has them, and the canonical `webhooks` of a batch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import Field

from gristmill.api.parts import Parts
from gristmill.dialects.llamacloud import words
from gristmill.dialects.llamacloud.words import Lenient
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.domain.webhooks import FRUITLESS, Form, Wire
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.processors.extract import Extract
from gristmill.processors.fields import SecretHeaders
from gristmill.processors.parse import Parse
from gristmill.store import webhook_endpoints
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch
from gristmill.store.webhook_endpoints import Endpoint

PREFIX = "whc-"
SIGNATURE = "llamacloud"
# Of a product: our event → its type and status there. A job is a batch of one item: where that fails, nothing has succeeded.
_JOB = {
    "created": ("pending", "PENDING"),
    "completed": ("success", "COMPLETED"),
    FRUITLESS: ("error", "FAILED"),
    "failed": ("error", "FAILED"),
    "cancelled": ("cancelled", "CANCELLED"),
}
_STARTED = {"started": ("running", "RUNNING")}
_ENDS = {
    "batch": {name: word for name, word in _JOB.items() if name != FRUITLESS} | _STARTED,
    "parse": _JOB | _STARTED,
    "extract": _JOB,
}
_WORDS = {
    product: {ours: (f"{product}.{kind}", status) for ours, (kind, status) in ends.items()}
    for product, ends in _ENDS.items()
}
BATCHES = "batch"
PRODUCTS = {Parse.name: "parse", Extract.name: "extract"}  # of jobs
_FORMS = {"json": Form.FLAT, "string": Form.QUOTED}


class Hook(Lenient):
    """`webhook_events` null: all. Those of other products than the one it is for never happen."""

    webhook_url: str = Field(min_length=1, max_length=2048)
    webhook_events: list[str] | None = Field(None, min_length=1, max_length=100)
    webhook_headers: SecretHeaders | None = None
    webhook_output_format: Literal["string", "json"] | None = None
    webhook_signing_secret: str | None = Field(None, min_length=1, max_length=255)

    def events(self, product: str) -> list[str]:
        """Ours."""
        wanted = self.webhook_events
        return [ours for ours, (theirs, _) in _WORDS[product].items() if wanted is None or theirs in wanted]

    @property
    def secrets(self) -> dict[str, Any]:
        headers = self.webhook_headers or {}
        shown = {name: value.get_secret_value() for name, value in headers.items()}
        return {"secret": self.webhook_signing_secret, "headers": shown}

    def canonical(self) -> dict[str, Any]:
        """As the body of a create has it; what it is told of is said when its words are known (`worded`)."""
        given = self.secrets | {"url": self.webhook_url}
        return given if self.webhook_signing_secret is None else given | {"signatures": [SIGNATURE]}

    def wire(self, product: str, shown_id: str) -> Wire:
        return Wire(_FORMS[self.webhook_output_format or "string"], _WORDS[product], shown_id)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A webhook that a batch is to have, and where its body names it."""

    at: str
    hook: Hook
    product: str


class Hooked(Lenient):
    """What a create says of webhooks."""

    webhook_configurations: list[Hook] | None = None
    webhook_configuration_ids: list[str] | None = None


async def chosen(of: Parts, key: Key, given: Hooked, product: str) -> list[Chosen]:
    """Those that want anything of it. Raises Invalid for an endpoint that is not kept."""
    found = [
        Chosen(f"/webhook_configurations/{place}", hook, product)
        for place, hook in enumerate(given.webhook_configurations or ())
    ]
    for place, one in enumerate(given.webhook_configuration_ids or ()):
        at = f"/webhook_configuration_ids/{place}"
        try:
            kept = await find(of, key, one)
        except NotFound:
            raise Invalid([Problem(at, "unknown_webhook", "no such webhook configuration")]) from None
        found.append(Chosen(at, opened(of, kept), product))
    return [one for one in found if one.hook.events(product)]


def places(found: Iterable[Chosen]) -> Mapping[str, str]:
    """Where a finding about the canonical `webhooks` lies."""
    fields = {"url": "webhook_url", "secret": "webhook_signing_secret", "headers": "webhook_headers"}
    at: dict[str, str] = {}
    for place, one in enumerate(found):
        inline = one.at.startswith("/webhook_configurations/")
        for ours, theirs in fields.items():
            at[f"/webhooks/{place}/{ours}"] = f"{one.at}/{theirs}" if inline else one.at
        at[f"/webhooks/{place}"] = one.at
    return at | {"/webhooks": "/webhook_configurations"}


def place_of_url(one: Chosen) -> str:
    return f"{one.at}/webhook_url" if one.at.startswith("/webhook_configurations/") else one.at


def worded(new: NewBatch, found: Iterable[Chosen], shown_id: str) -> NewBatch:
    """The batch, whose webhooks are told in that system's words."""
    hooks = [
        replace(hook, events=tuple(one.hook.events(one.product)), wire=one.hook.wire(one.product, shown_id))
        for hook, one in zip(new.webhooks, found, strict=True)
    ]
    return replace(new, webhooks=tuple(hooks))


# --- those that are kept --------------------------------------------------------------------------------------


def ours(kept: Endpoint) -> bool:
    """Others keep theirs in the same place."""
    return bool(words.facts_of(kept.dialect_facts).get("dialect", words.NAME) == words.NAME)


async def find(of: Parts, key: Key, config_id: str) -> Endpoint:
    """Raises NotFound."""
    async with of.database.engine.connect() as connection:
        kept = await webhook_endpoints.get(connection, key.tenant_id, words.inward(PREFIX, config_id))
    if not ours(kept):
        raise NotFound("no such webhook configuration")
    return kept


def sealed(of: Parts, endpoint_id: UUID, hook: Hook) -> bytes | None:
    if hook.webhook_signing_secret is None and not hook.webhook_headers:
        return None
    return of.vault.encrypt(orjson.dumps(hook.secrets), webhook_endpoints.binding(endpoint_id))


def facts(hook: Hook) -> str:
    return words.facts(events=hook.webhook_events, format=hook.webhook_output_format)


def opened(of: Parts, kept: Endpoint) -> Hook:
    """With its secrets: never to be shown."""
    secrets: dict[str, Any] = {"secret": None, "headers": {}}
    if kept.sealed is not None:
        secrets = orjson.loads(of.vault.decrypt(kept.sealed, webhook_endpoints.binding(kept.id)))
    remembered = words.facts_of(kept.dialect_facts)
    return Hook(
        webhook_url=kept.url,
        webhook_events=remembered.get("events"),
        webhook_headers=secrets["headers"],
        webhook_output_format=remembered.get("format"),
        webhook_signing_secret=secrets["secret"],
    )


def check(of: Parts, url: str, at: str = "/webhook_url") -> None:
    """Raises Invalid for a URL that may not be called."""
    try:
        check_url(url, allow_private=of.settings.allow_private_addresses)
    except AddressRefused as refused:
        raise Invalid([Problem(at, "address_refused", str(refused))]) from None
