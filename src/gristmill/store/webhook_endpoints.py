"""Endpoints of webhooks that a tenant keeps. A batch takes a copy; later changes do not reach it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import Conflict, NotFound
from gristmill.tables import webhook_endpoint

MAX_EACH = 100  # of one tenant


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: UUID
    url: str
    sealed: bytes | None  # {secret, headers} as JSON, encrypted, bound to `binding(id)`
    dialect_facts: str | None  # JSON that only a dialect reads
    created_at: datetime
    updated_at: datetime


_COLUMNS = (
    webhook_endpoint.c.id,
    webhook_endpoint.c.url,
    webhook_endpoint.c.sealed,
    webhook_endpoint.c.dialect_facts,
    webhook_endpoint.c.created_at,
    webhook_endpoint.c.updated_at,
)


def binding(endpoint_id: UUID) -> str:
    """What the ciphertext of an endpoint is bound to."""
    return f"webhook_endpoint:{endpoint_id}"


async def create(
    connection: AsyncConnection,
    tenant_id: UUID,
    endpoint_id: UUID,
    *,
    url: str,
    sealed: bytes | None,
    facts: str | None,
) -> Endpoint:
    """Raises Conflict for one too many."""
    mine = webhook_endpoint.c.tenant_id == tenant_id
    count = select(func.count()).select_from(webhook_endpoint).where(mine)
    if (await connection.execute(count)).scalar_one() >= MAX_EACH:
        raise Conflict(f"at most {MAX_EACH} webhook endpoints are kept", code="too_many_endpoints")
    made = await connection.execute(
        insert(webhook_endpoint)
        .values(id=endpoint_id, tenant_id=tenant_id, url=url, sealed=sealed, dialect_facts=facts)
        .returning(*_COLUMNS)
    )
    return Endpoint(**made.one()._asdict())


async def get(connection: AsyncConnection, tenant_id: UUID, endpoint_id: UUID) -> Endpoint:
    """Raises NotFound."""
    found = await connection.execute(select(*_COLUMNS).where(_is(tenant_id, endpoint_id)))
    return _one(found.one_or_none())


async def page(
    connection: AsyncConnection, tenant_id: UUID, *, limit: int, before: UUID | None
) -> list[Endpoint]:
    """Newest first. `before`: only those older than that one."""
    mine = webhook_endpoint.c.tenant_id == tenant_id
    if before is not None:
        mine &= webhook_endpoint.c.id < before
    rows = await connection.execute(
        select(*_COLUMNS).where(mine).order_by(webhook_endpoint.c.id.desc()).limit(limit)
    )
    return [Endpoint(**row._asdict()) for row in rows]


async def change(
    connection: AsyncConnection, tenant_id: UUID, endpoint_id: UUID, changes: Mapping[str, Any]
) -> Endpoint:
    """`changes`: url, sealed, dialect_facts. Raises NotFound."""
    changed = await connection.execute(
        update(webhook_endpoint)
        .where(_is(tenant_id, endpoint_id))
        .values(**changes, updated_at=func.now())
        .returning(*_COLUMNS)
    )
    return _one(changed.one_or_none())


async def remove(connection: AsyncConnection, tenant_id: UUID, endpoint_id: UUID) -> None:
    """Batches that were made with it keep their copy. Raises NotFound."""
    done = await connection.execute(delete(webhook_endpoint).where(_is(tenant_id, endpoint_id)))
    if done.rowcount == 0:
        raise NotFound("no such webhook endpoint")


def _is(tenant_id: UUID, endpoint_id: UUID) -> ColumnElement[bool]:
    return (webhook_endpoint.c.tenant_id == tenant_id) & (webhook_endpoint.c.id == endpoint_id)


def _one(row: Any) -> Endpoint:
    if row is None:
        raise NotFound("no such webhook endpoint")
    return Endpoint(**row._asdict())
