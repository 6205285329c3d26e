"""Administrative acts: who, what, when, from where. Written in the transaction that makes them true, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, insert, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.ids import uuid7
from gristmill.store.keys import Key
from gristmill.tables import audit_entry

Action = Literal["api_key.created", "api_key.rotated", "api_key.revoked", "limit.set", "limit.removed"]


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


async def note(
    connection: AsyncConnection, actor: Actor, action: Action, target: Key, **details: Any
) -> None:
    """With the caller's transaction. `details` hold nothing secret."""
    await connection.execute(
        insert(audit_entry).values(
            id=uuid7(),
            tenant_id=target.tenant_id,
            action=action,
            target_id=target.id,
            actor_kind=actor.kind,
            actor_id=actor.id,
            actor_name=actor.name,
            address=actor.address,
            request_id=actor.request_id,
            details={"name": target.name, "scopes": sorted(target.scopes), **details},
        )
    )


async def page(
    connection: AsyncConnection,
    tenant_id: UUID | None,
    *,
    limit: int,
    offset: int = 0,
    before: UUID | None = None,
) -> tuple[list[Act], int]:
    """Newest first, of one tenant or of all, and how many there are. `before`: only those older than that one."""
    mine = true() if tenant_id is None else audit_entry.c.tenant_id == tenant_id
    counted = select(func.count()).select_from(audit_entry).where(mine)
    total = (await connection.execute(counted)).scalar_one()
    older = mine if before is None else mine & (audit_entry.c.id < before)
    rows = await connection.execute(
        select(audit_entry).where(older).order_by(audit_entry.c.id.desc()).limit(limit).offset(offset)
    )
    return [Act(**row._asdict()) for row in rows], total
