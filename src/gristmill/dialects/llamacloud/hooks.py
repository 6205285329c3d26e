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
from gristmill.domain.webhooks import Form, Wire
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.processors.fields import SecretHeaders
from gristmill.store import webhook_endpoints
from gristmill.store.batches import NewBatch
from gristmill.store.keys import Key
from gristmill.store.webhook_endpoints import Endpoint

PREFIX = "whc-"
SIGNATURE = "llamacloud"
# Our event → its type and status there.
_WORDS = {
    "created": ("batch.pending", "PENDING"),
    "started": ("batch.running", "RUNNING"),
    "completed": ("batch.success", "COMPLETED"),
    "failed": ("batch.error", "FAILED"),
    "cancelled": ("batch.cancelled", "CANCELLED"),
}
_FORMS = {"json": Form.FLAT, "string": Form.QUOTED}


class Hook(Lenient):
    """`webhook_events` null: all. Those of other products than batches never happen to a batch."""

    webhook_url: str = Field(min_length=1, max_length=2048)
    webhook_events: list[str] | None = Field(None, min_length=1, max_length=100)
    webhook_headers: SecretHeaders | None = None
    webhook_output_format: Literal["string", "json"] | None = None
    webhook_signing_secret: str | None = Field(None, min_length=1, max_length=255)

    @property
    def events(self) -> list[str]:
        """Ours."""
        wanted = self.webhook_events
        return [ours for ours, (theirs, _) in _WORDS.items() if wanted is None or theirs in wanted]

    @property
    def secrets(self) -> dict[str, Any]:
        headers = self.webhook_headers or {}
        shown = {name: value.get_secret_value() for name, value in headers.items()}
        return {"secret": self.webhook_signing_secret, "headers": shown}

    def canonical(self) -> dict[str, Any]:
        """As the body of a create has it."""
        given = self.secrets | {"url": self.webhook_url, "events": self.events}
        return given if self.webhook_signing_secret is None else given | {"signatures": [SIGNATURE]}

    def wire(self, batch_id: UUID) -> Wire:
        form = _FORMS[self.webhook_output_format or "string"]
        return Wire(form, _WORDS, words.outward(words.BATCH, batch_id))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A webhook that a batch is to have, and where its body names it."""

    at: str
    hook: Hook


async def chosen(of: Parts, key: Key, inline: Iterable[Hook], endpoint_ids: Iterable[str]) -> list[Chosen]:
    """Those that want anything of a batch. Raises Invalid for an endpoint that is not kept."""
    found = [Chosen(f"/webhook_configurations/{place}", hook) for place, hook in enumerate(inline)]
    for place, one in enumerate(endpoint_ids):
        at = f"/webhook_configuration_ids/{place}"
        try:
            kept = await find(of, key, one)
        except NotFound:
            raise Invalid([Problem(at, "unknown_webhook", "no such webhook configuration")]) from None
        found.append(Chosen(at, opened(of, kept)))
    return [one for one in found if one.hook.events]


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


def worded(new: NewBatch, found: Iterable[Chosen]) -> NewBatch:
    """The batch, whose webhooks are told in that system's words."""
    hooks = zip(new.webhooks, found, strict=True)
    return replace(new, webhooks=tuple(replace(hook, wire=one.hook.wire(new.id)) for hook, one in hooks))


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


def check(of: Parts, url: str) -> None:
    """Raises Invalid for a URL that may not be called."""
    try:
        check_url(url, allow_private=of.settings.allow_private_addresses)
    except AddressRefused as refused:
        raise Invalid([Problem("/webhook_url", "address_refused", str(refused))]) from None
