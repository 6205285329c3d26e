"""Administrative acts: who, what, when, from where. Written in the transaction that makes them true, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.db import Transaction
from gristmill.domain.ids import uuid7
from gristmill.store.keys import Key
from gristmill.tables import audit_entry

Action = Literal["api_key.created", "api_key.rotated", "api_key.revoked", "limit.set", "limit.removed"]
OF_SERVICE = ("limit.set", "limit.removed")  # what they say is of all tenants


@dataclass(frozen=True, slots=True)
class Actor:
    """`id` is that of an API key or the subject of a token; `address` the other end of the connection, maybe a proxy."""

    kind: Literal["api_key", "jwt", "command_line"]
    id: str | None = None
    name: str | None = None
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    id: UUID
    tenant_id: UUID
    at: datetime
    action: Action
    target_id: UUID
    actor_kind: Literal["api_key", "jwt", "command_line"]
    actor_id: str | None
    actor_name: str | None
    address: str | None
    request_id: str | None
    details: Mapping[str, Any]


_NOTE = """
INSERT INTO audit_entry (
    id, tenant_id, action, target_id, actor_kind, actor_id, actor_name, address, request_id, details
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb)
"""


async def note(
    connection: AsyncConnection, actor: Actor, action: Action, target: Key, **details: Any
) -> None:
    """With the caller's transaction. `details` hold nothing secret."""
    details = {"name": target.name, "scopes": sorted(target.scopes), **details}
    await connection.exec_driver_sql(_NOTE, _values(actor, target.tenant_id, action, target.id, details))


async def note_of_service(
    tx: Transaction,
    actor: Actor,
    tenant_id: UUID,
    action: Action,
    target_id: UUID,
    details: Mapping[str, Any],
) -> None:
    """What concerns all tenants; `tenant_id`: of whose key it was."""
    await tx.execute(_NOTE, *_values(actor, tenant_id, action, target_id, details))


def _values(
    actor: Actor, tenant_id: UUID, action: Action, target_id: UUID, details: Mapping[str, Any]
) -> tuple[Any, ...]:
    who = (actor.kind, actor.id, actor.name, actor.address, actor.request_id)
    return (uuid7(), tenant_id, action, target_id, *who, orjson.dumps(details).decode())


async def page(
    connection: AsyncConnection,
    tenant_id: UUID | None,
    *,
    limit: int,
    offset: int = 0,
    before: UUID | None = None,
    operates: bool = False,
) -> tuple[list[Act], int]:
    """Newest first, of one tenant or of all, and how many there are. `before`: only those older than that one.
    `operates`: those of the service as well, whoever did them; else a tenant sees none of them, its own ones neither."""
    mine = true() if tenant_id is None else _seen_by(tenant_id, operates)
    counted = select(func.count()).select_from(audit_entry).where(mine)
    total = (await connection.execute(counted)).scalar_one()
    older = mine if before is None else mine & (audit_entry.c.id < before)
    rows = await connection.execute(
        select(audit_entry).where(older).order_by(audit_entry.c.id.desc()).limit(limit).offset(offset)
    )
    return [Act(**row._asdict()) for row in rows], total


def _seen_by(tenant_id: UUID, operates: bool) -> ColumnElement[bool]:
    of_service = audit_entry.c.action.in_(OF_SERVICE)
    mine = audit_entry.c.tenant_id == tenant_id
    return mine | of_service if operates else mine & ~of_service
