"""Configurations: named settings of a processor. A batch takes a copy; later changes do not reach it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import NotFound
from gristmill.tables import configuration


@dataclass(frozen=True, slots=True)
class Configuration:
    id: UUID
    name: str
    processor: str
    config: bytes  # JSON, encrypted, bound to `binding(id)`
    created_at: datetime
    updated_at: datetime
    dialect_facts: str | None  # JSON that only a dialect reads


_COLUMNS = (
    configuration.c.id,
    configuration.c.name,
    configuration.c.processor,
    configuration.c.config,
    configuration.c.created_at,
    configuration.c.updated_at,
    configuration.c.dialect_facts,
)


def binding(configuration_id: UUID) -> str:
    """What the ciphertext of a configuration is bound to."""
    return f"configuration:{configuration_id}"


async def create(
    connection: AsyncConnection,
    tenant_id: UUID,
    configuration_id: UUID,
    *,
    name: str,
    processor: str,
    config: bytes,
    facts: str | None = None,
) -> Configuration:
    made = await connection.execute(
        insert(configuration)
        .values(
            id=configuration_id,
            tenant_id=tenant_id,
            name=name,
            processor=processor,
            config=config,
            dialect_facts=facts,
        )
        .returning(*_COLUMNS)
    )
    return Configuration(**made.one()._asdict())


async def get(connection: AsyncConnection, tenant_id: UUID, configuration_id: UUID) -> Configuration:
    """Raises NotFound."""
    found = await connection.execute(select(*_COLUMNS).where(_is(tenant_id, configuration_id)))
    return _one(found.one_or_none())


async def change(
    connection: AsyncConnection, tenant_id: UUID, configuration_id: UUID, changes: Mapping[str, Any]
) -> Configuration:
    """`changes`: name, config (encrypted), dialect_facts. Raises NotFound."""
    changed = await connection.execute(
        update(configuration)
        .where(_is(tenant_id, configuration_id))
        .values(**changes, updated_at=func.now())
        .returning(*_COLUMNS)
    )
    return _one(changed.one_or_none())


async def remove(connection: AsyncConnection, tenant_id: UUID, configuration_id: UUID) -> None:
    """Batches that were made with it keep their copy. Raises NotFound."""
    done = await connection.execute(delete(configuration).where(_is(tenant_id, configuration_id)))
    if done.rowcount == 0:
        raise NotFound("no such configuration")


async def page(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    limit: int,
    offset: int,
    before: UUID | None,
    processor: str | None,
    name: str | None,
) -> tuple[list[Configuration], int]:
    """Newest first, and how many match in all. `before`: only those older than that one."""
    mine = configuration.c.tenant_id == tenant_id
    if processor is not None:
        mine &= configuration.c.processor == processor
    if name is not None:
        mine &= configuration.c.name == name
    counted = select(func.count()).select_from(configuration).where(mine)
    total = (await connection.execute(counted)).scalar_one()
    older = mine if before is None else mine & (configuration.c.id < before)
    rows = await connection.execute(
        select(*_COLUMNS).where(older).order_by(configuration.c.id.desc()).limit(limit).offset(offset)
    )
    return [Configuration(**row._asdict()) for row in rows], total


def _is(tenant_id: UUID, configuration_id: UUID) -> ColumnElement[bool]:
    return (configuration.c.tenant_id == tenant_id) & (configuration.c.id == configuration_id)


def _one(row: Any) -> Configuration:
    if row is None:
        raise NotFound("no such configuration")
    return Configuration(**row._asdict())
