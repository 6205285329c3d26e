"""Agents and their versions. A version never changes; only a published one runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import NotFound
from gristmill.domain.ids import uuid7
from gristmill.tables import agent, agent_version
from gristmill.vault import Vault


@dataclass(frozen=True, slots=True)
class McpServer:
    """A tool server. The headers carry credentials: their values are never shown."""

    name: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a caller says of an agent; becomes a version."""

    name: str
    model: str | None  # None: the configured default model
    instructions: str
    parameters: Mapping[str, Any]
    mcp_servers: tuple[McpServer, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    agent_id: UUID
    version: int
    name: str
    model: str | None
    instructions: str
    parameters: dict[str, Any]
    mcp_servers: bytes | None  # encrypted, bound to mcp:{agent_id}:{version}
    created_at: datetime
    published_at: datetime | None


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with its latest version."""

    id: UUID
    latest_version: int
    published_version: int | None
    created_at: datetime
    updated_at: datetime
    latest: Version


def binding(agent_id: UUID, version: int) -> str:
    """What the ciphertext of a version's MCP servers is bound to."""
    return f"mcp:{agent_id}:{version}"


def servers(vault: Vault, version: Version) -> tuple[McpServer, ...]:
    """The tool servers of a version, credentials included."""
    if version.mcp_servers is None:
        return ()
    text = vault.decrypt(version.mcp_servers, binding(version.agent_id, version.version))
    return tuple(McpServer(**server) for server in orjson.loads(text))


def draft_of(vault: Vault, version: Version) -> Draft:
    """The version as a draft, to make the next one from."""
    return Draft(
        version.name, version.model, version.instructions, version.parameters, servers(vault, version)
    )


async def create(connection: AsyncConnection, vault: Vault, tenant_id: UUID, draft: Draft) -> Agent:
    """A new agent with version 1, not published."""
    agent_id = uuid7()
    await connection.execute(insert(agent).values(id=agent_id, tenant_id=tenant_id, latest_version=1))
    await _write_version(connection, vault, agent_id, 1, draft)
    return await get(connection, tenant_id, agent_id)


async def revise(
    connection: AsyncConnection, vault: Vault, tenant_id: UUID, agent_id: UUID, changes: Mapping[str, Any]
) -> Agent:
    """A new version, not published: the latest one with `changes` (fields of Draft). Raises NotFound."""
    latest = (await _locked(connection, tenant_id, agent_id)).latest
    draft = replace(draft_of(vault, latest), **changes)
    await connection.execute(
        update(agent)
        .where(agent.c.id == agent_id)
        .values(latest_version=latest.version + 1, updated_at=func.now())
    )
    await _write_version(connection, vault, agent_id, latest.version + 1, draft)
    return await get(connection, tenant_id, agent_id)


async def publish(
    connection: AsyncConnection, tenant_id: UUID, agent_id: UUID, version: int | None = None
) -> Agent:
    """Batches created from now on run this version (None: the latest). Raises NotFound."""
    current = await _locked(connection, tenant_id, agent_id)
    chosen = await version_of(connection, tenant_id, agent_id, version or current.latest_version)
    await connection.execute(
        update(agent)
        .where(agent.c.id == agent_id)
        .values(published_version=chosen.version, updated_at=func.now())
    )
    await connection.execute(
        update(agent_version)
        .where(agent_version.c.agent_id == agent_id, agent_version.c.version == chosen.version)
        .values(published_at=func.coalesce(agent_version.c.published_at, func.now()))
    )
    return await get(connection, tenant_id, agent_id)


async def get(connection: AsyncConnection, tenant_id: UUID, agent_id: UUID) -> Agent:
    """Raises NotFound."""
    row = (await connection.execute(_agents(tenant_id).where(agent.c.id == agent_id))).one_or_none()
    if row is None:
        raise NotFound("no such agent")
    return _agent(row)


async def _locked(connection: AsyncConnection, tenant_id: UUID, agent_id: UUID) -> Agent:
    await connection.execute(
        select(agent.c.id).where(agent.c.tenant_id == tenant_id, agent.c.id == agent_id).with_for_update()
    )
    return await get(connection, tenant_id, agent_id)


async def page(
    connection: AsyncConnection, tenant_id: UUID, *, limit: int, offset: int, before: UUID | None
) -> tuple[list[Agent], int]:
    """Newest first, and how many there are in all. `before`: only agents older than that one."""
    mine = agent.c.tenant_id == tenant_id
    total = (await connection.execute(select(func.count()).select_from(agent).where(mine))).scalar_one()
    statement = _agents(tenant_id).order_by(agent.c.id.desc()).limit(limit).offset(offset)
    if before is not None:
        statement = statement.where(agent.c.id < before)
    return [_agent(row) for row in await connection.execute(statement)], total


async def versions(
    connection: AsyncConnection, agent_id: UUID, *, limit: int, offset: int, before: int | None
) -> tuple[list[Version], int]:
    """Versions of an agent that `get` found to be the caller's own, newest first, and how many it has."""
    mine = agent_version.c.agent_id == agent_id
    total = (
        await connection.execute(select(func.count()).select_from(agent_version).where(mine))
    ).scalar_one()
    older = mine if before is None else mine & (agent_version.c.version < before)
    rows = await connection.execute(
        select(agent_version)
        .where(older)
        .order_by(agent_version.c.version.desc())
        .limit(limit)
        .offset(offset)
    )
    return [Version(**row._asdict()) for row in rows], total


async def version_of(connection: AsyncConnection, tenant_id: UUID, agent_id: UUID, version: int) -> Version:
    """Raises NotFound."""
    rows = await connection.execute(
        select(agent_version)
        .join(agent, agent.c.id == agent_version.c.agent_id)
        .where(agent.c.tenant_id == tenant_id, agent.c.id == agent_id, agent_version.c.version == version)
    )
    row = rows.one_or_none()
    if row is None:
        raise NotFound("no such version of the agent")
    return Version(**row._asdict())


async def published(
    connection: AsyncConnection, tenant_id: UUID, agent_ids: Iterable[UUID]
) -> dict[UUID, Version | None]:
    """Those of the ids that are agents of this tenant, with the published version (None: there is none)."""
    rows = await connection.execute(
        select(agent.c.id.label("known_id"), agent_version)
        .outerjoin(
            agent_version,
            (agent_version.c.agent_id == agent.c.id) & (agent_version.c.version == agent.c.published_version),
        )
        .where(agent.c.tenant_id == tenant_id, agent.c.id.in_(list(agent_ids)))
    )
    found = [row._asdict() for row in rows]
    return {row.pop("known_id"): Version(**row) if row["agent_id"] else None for row in found}


async def _write_version(
    connection: AsyncConnection, vault: Vault, agent_id: UUID, version: int, draft: Draft
) -> None:
    sealed = None
    if draft.mcp_servers:
        plain = [
            {"name": one.name, "url": one.url, "headers": dict(one.headers)} for one in draft.mcp_servers
        ]
        sealed = vault.encrypt(orjson.dumps(plain), binding(agent_id, version))
    await connection.execute(
        insert(agent_version).values(
            agent_id=agent_id,
            version=version,
            name=draft.name,
            model=draft.model,
            instructions=draft.instructions,
            parameters=dict(draft.parameters),
            mcp_servers=sealed,
        )
    )


def _agents(tenant_id: UUID) -> Select[Any]:
    return (
        select(
            agent.c.id,
            agent.c.latest_version,
            agent.c.published_version,
            agent.c.created_at.label("agent_created_at"),
            agent.c.updated_at,
            agent_version,
        )
        .join(
            agent_version,
            (agent_version.c.agent_id == agent.c.id) & (agent_version.c.version == agent.c.latest_version),
        )
        .where(agent.c.tenant_id == tenant_id)
    )


def _agent(row: Row[Any]) -> Agent:
    values = row._asdict()
    own = {name: values.pop(name) for name in ("id", "latest_version", "published_version", "updated_at")}
    return Agent(**own, created_at=values.pop("agent_created_at"), latest=Version(**values))
