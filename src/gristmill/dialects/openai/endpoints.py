"""Webhook endpoints as OpenAI's clients know them, on the tenant's kept ones; and what a batch is made to tell them."""

import base64
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from gristmill.api.parts import Parts
from gristmill.dialects.base import inward, outward
from gristmill.dialects.openai.words import BATCH, NAME
from gristmill.domain.errors import NotFound
from gristmill.domain.ids import uuid7
from gristmill.domain.webhooks import EXPIRED, Form, Hook, Secrets, Signature, Wire, binding
from gristmill.store import webhook_endpoints
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch
from gristmill.store.webhook_endpoints import Endpoint

PREFIX = "whe_"
MAX_EACH = 20  # of one tenant: each batch may have to be told to all of them
SIGNATURES = (Signature.STANDARD,)
# Our event → its type and status there.
_WORDS = {one: (f"batch.{one}", one) for one in ("completed", "failed", EXPIRED, "cancelled")}
EVENTS = tuple(theirs for theirs, _ in _WORDS.values())


@dataclass(frozen=True, slots=True)
class Kept:
    """With its secret: shown only when it is new. `former`: {secret, until} of the one before."""

    id: UUID
    name: str
    url: str
    event_types: tuple[str, ...]
    secret: str = field(repr=False)
    former: dict[str, Any] | None = field(default=None, repr=False)
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def secrets(self) -> Secrets:
        return Secrets.of(self._sealed, time.time())

    @property
    def _sealed(self) -> dict[str, Any]:
        return {"secret": self.secret, "headers": {}, "former": self.former}

    def columns(self, of: Parts) -> tuple[bytes, str]:
        """What is encrypted of it, and its facts."""
        facts = {"dialect": NAME, "name": self.name, "event_types": self.event_types}
        sealed = of.vault.encrypt(orjson.dumps(self._sealed), webhook_endpoints.binding(self.id))
        return sealed, orjson.dumps(facts).decode()


def new_secret() -> str:
    """As Standard Webhooks writes them, so that every verifier reads it."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


async def create(of: Parts, key: Key, name: str, url: str, event_types: tuple[str, ...]) -> Kept:
    """Raises Conflict for one too many."""
    new = Kept(uuid7(), name, url, event_types, new_secret())
    sealed, facts = new.columns(of)
    async with of.database.engine.begin() as connection:
        made = await webhook_endpoints.create(
            connection, key.tenant_id, new.id, url=url, sealed=sealed, facts=facts
        )
    return replace(new, created_at=made.created_at, updated_at=made.updated_at)


async def change(of: Parts, key: Key, changed: Kept) -> Kept:
    """Raises NotFound."""
    sealed, facts = changed.columns(of)
    changes = {"url": changed.url, "sealed": sealed, "dialect_facts": facts}
    async with of.database.engine.begin() as connection:
        kept = await webhook_endpoints.change(connection, key.tenant_id, changed.id, changes)
    return replace(changed, updated_at=kept.updated_at)


async def remove(of: Parts, key: Key, kept: Kept) -> None:
    async with of.database.engine.begin() as connection:
        await webhook_endpoints.remove(connection, key.tenant_id, kept.id)


async def find(of: Parts, key: Key, endpoint_id: str) -> Kept:
    """Raises NotFound, also for one that another dialect keeps."""
    async with of.database.engine.connect() as connection:
        kept = await webhook_endpoints.get(connection, key.tenant_id, inward(PREFIX, endpoint_id))
    if (found := _opened(of, kept)) is None:
        raise NotFound("no such webhook endpoint")
    return found


async def all_of(of: Parts, key: Key) -> list[Kept]:
    """Newest first."""
    async with of.database.engine.connect() as connection:
        kept = await webhook_endpoints.page(
            connection, key.tenant_id, limit=webhook_endpoints.MAX_EACH, before=None
        )
    return [found for one in kept if (found := _opened(of, one)) is not None]


def _opened(of: Parts, kept: Endpoint) -> Kept | None:
    facts = orjson.loads(kept.dialect_facts or "{}")
    if facts.get("dialect") != NAME or kept.sealed is None:
        return None
    found = orjson.loads(of.vault.decrypt(kept.sealed, webhook_endpoints.binding(kept.id)))
    return Kept(
        kept.id,
        facts["name"],
        kept.url,
        tuple(facts["event_types"]),
        found["secret"],
        found["former"],
        kept.created_at,
        kept.updated_at,
    )


def told(of: Parts, new: NewBatch, kept: list[Kept]) -> NewBatch:
    """The batch, whose ends are told to those endpoints that want any of them."""
    hooks: list[Hook] = []
    for one in kept:
        events = tuple(ours for ours, (theirs, _) in _WORDS.items() if theirs in one.event_types)
        if events:
            sealed = orjson.dumps({"endpoint": str(one.id)})
            bound = of.vault.encrypt(sealed, binding(new.id, len(hooks)))
            wire = Wire(Form.EVENT, _WORDS, outward(BATCH, new.id))
            hooks.append(Hook(one.url, events, SIGNATURES, bound, wire))
    return replace(new, webhooks=tuple(hooks))


def sample(event_type: str) -> tuple[str, str]:
    """The id and the body of an event that nothing stands behind."""
    event_id = f"evt_{uuid4().hex}"
    told = {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "created_at": int(time.time()),
        "data": {"id": outward(BATCH, uuid4())},
    }
    return event_id, orjson.dumps(told).decode()
