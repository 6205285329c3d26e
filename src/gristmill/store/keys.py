"""API keys and the tenants they belong to. A key is shown once and never stored: only its digest is."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.ids import uuid7
from gristmill.tables import api_key, tenant
from gristmill.vault import Vault

DEFAULT_TENANT = "default"
CONFIGURED = "GRISTMILL_API_KEY"  # the name of the key that the setting brings
FIRST = "first key"

# `admin` stands for every scope of one's own tenant, those of later versions included; OPERATE is for what concerns all tenants.
Scope = Literal[
    "batches:read",
    "batches:write",
    "agents:read",
    "agents:write",
    "configurations:read",
    "configurations:write",
    "files:read",
    "files:write",
    "chats:read",
    "keys:read",
    "keys:write",
    "audit:read",
    "admin",
    "operate",
]
OPERATE = "operate"
SCOPES: tuple[str, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Key:
    """Who calls, and what it may. A token (`api/tokens.py`) is one, too: of no row, with its subject as the name."""

    id: UUID
    tenant_id: UUID
    tenant: str
    name: str
    prefix: str  # the first characters of the key, to recognise it by
    last_four: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: UUID | None = None  # the key that a rotation made in its place
    kind: Literal["api_key", "jwt"] = "api_key"

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or ("admin" in self.scopes and scope != OPERATE)

    def may_give(self, scopes: Iterable[str]) -> bool:
        """Nobody makes, or comes to know, a key that may do more than he may himself; one with OPERATE nobody over the API."""
        return all(self.allows(scope) and scope != OPERATE for scope in scopes)


async def ensure_tenant(connection: AsyncConnection, name: str) -> UUID:
    """The id of the tenant with that name, made if there is none; its row is locked until the commit."""
    await connection.execute(insert(tenant).values(id=uuid7(), name=name).on_conflict_do_nothing())
    found = await connection.execute(select(tenant.c.id).where(tenant.c.name == name).with_for_update())
    identifier: UUID = found.scalar_one()
    return identifier


async def ensure_default(connection: AsyncConnection, vault: Vault, configured: str | None) -> str | None:
    """Sees to it that somebody can sign in: called at every start, by any number of processes at once.

    With a configured key, that one is accepted for the default tenant in place of the one configured before
    (a key that was revoked by hand stays revoked). Without, the first start makes a key and returns it.
    """
    tenant_id = await ensure_tenant(connection, DEFAULT_TENANT)
    if configured is not None:
        await _accept_configured(connection, vault, tenant_id, configured)
        return None
    exists = await connection.execute(select(true()).where(api_key.c.tenant_id == tenant_id).limit(1))
    if exists.scalar() is not None:
        return None
    _, plain = await create(connection, vault, tenant_id, name=FIRST, scopes=["admin"])
    return plain


async def _accept_configured(
    connection: AsyncConnection, vault: Vault, tenant_id: UUID, configured: str
) -> None:
    digest = vault.digest(configured)
    await connection.execute(
        delete(api_key).where(
            api_key.c.tenant_id == tenant_id,
            api_key.c.name == CONFIGURED,
            api_key.c.digest != digest,
            api_key.c.revoked_at.is_(None),
        )
    )
    row = _row(tenant_id, CONFIGURED, configured, digest, ["admin"], None)
    await connection.execute(insert(api_key).values(**row).on_conflict_do_nothing(index_elements=["digest"]))


async def create(
    connection: AsyncConnection,
    vault: Vault,
    tenant_id: UUID,
    *,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime | None = None,
    life_seconds: float | None = None,
) -> tuple[Key, str]:
    """A new key and its text, which cannot be had again. Raises ValueError for an unknown scope or a reserved name."""
    wanted = sorted(set(scopes))
    if name == CONFIGURED:  # each start removes those of that name that it does not know
        raise ValueError(f"the name {CONFIGURED} is kept for the key of that setting")
    if not wanted or not set(wanted) <= set(SCOPES):
        raise ValueError(f"scopes are one or more of: {', '.join(SCOPES)}")
    plain = f"gm_{secrets.token_urlsafe(32)}"
    row = _row(tenant_id, name, plain, vault.digest(plain), wanted, expires_at)
    if life_seconds is not None:
        row["expires_at"] = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, life_seconds)
    await connection.execute(insert(api_key).values(**row))
    made = await connection.execute(_select(api_key.c.id == row["id"]))
    return _key(made.one()), plain


def _row(
    tenant_id: UUID, name: str, plain: str, digest: bytes, scopes: list[str], expires_at: datetime | None
) -> dict[str, object]:
    # A short key of the operator's own would be given away by its first and last characters.
    shown = len(plain) >= 20
    return {
        "id": uuid7(),
        "tenant_id": tenant_id,
        "name": name,
        "prefix": plain[:7] if shown else "",
        "last_four": plain[-4:] if shown else "",
        "digest": digest,
        "scopes": scopes,
        "expires_at": expires_at,
    }


async def tenant_named(connection: AsyncConnection, name: str) -> UUID | None:
    found = await connection.execute(select(tenant.c.id).where(tenant.c.name == name))
    return found.scalar()


async def tenants(connection: AsyncConnection) -> dict[UUID, str]:
    """The names of all tenants."""
    return {row.id: row.name for row in await connection.execute(select(tenant.c.id, tenant.c.name))}


async def list_(connection: AsyncConnection, tenant_id: UUID | None = None) -> list[Key]:
    """All keys of one tenant, or of all of them, oldest first; expired and revoked ones too."""
    where = true() if tenant_id is None else api_key.c.tenant_id == tenant_id
    rows = await connection.execute(_select(where).order_by(api_key.c.id))
    return [_key(row) for row in rows]


async def page(
    connection: AsyncConnection, tenant_id: UUID, *, limit: int, offset: int, before: UUID | None
) -> tuple[list[Key], int]:
    """A tenant's keys, newest first, and how many there are in all. `before`: only those older than that one."""
    mine = api_key.c.tenant_id == tenant_id
    total = (await connection.execute(select(func.count()).select_from(api_key).where(mine))).scalar_one()
    older = mine if before is None else mine & (api_key.c.id < before)
    rows = await connection.execute(_select(older).order_by(api_key.c.id.desc()).limit(limit).offset(offset))
    return [_key(row) for row in rows], total


async def get(connection: AsyncConnection, tenant_id: UUID | None, key_id: UUID) -> Key:
    """Of one tenant, or of any. Raises NotFound."""
    mine = true() if tenant_id is None else api_key.c.tenant_id == tenant_id
    row = (await connection.execute(_select(mine, api_key.c.id == key_id))).one_or_none()
    if row is None:
        raise NotFound("no such API key")
    return _key(row)


async def to_change(connection: AsyncConnection, tenant_id: UUID, key_id: UUID) -> Key:
    """A key that is not revoked; until the commit nobody else changes keys of this tenant, so that two cannot take the
    last two admin keys away. Raises NotFound, Conflict."""
    await connection.execute(select(tenant.c.id).where(tenant.c.id == tenant_id).with_for_update())
    found = await get(connection, tenant_id, key_id)
    if found.revoked_at is not None:
        raise Conflict("the API key is revoked", code="key_revoked")
    return found


async def check_not_last(connection: AsyncConnection, one: Key) -> None:
    """Raises Conflict for the last live admin key of its tenant. Those that a rotation has replaced will end, so they do
    not count beside it."""
    if "admin" not in one.scopes or not await _is_live(connection, one):
        return
    others = await connection.execute(
        select(true())
        .where(
            api_key.c.tenant_id == one.tenant_id,
            api_key.c.id != one.id,
            api_key.c.scopes.contains(["admin"]),
            api_key.c.replaced_by.is_(None),
            *_live(),
        )
        .limit(1)
    )
    if others.scalar() is None:
        raise Conflict("this is the tenant's last admin key: make another one first", code="last_admin_key")


async def _is_live(connection: AsyncConnection, one: Key) -> bool:
    found = await connection.execute(select(true()).where(api_key.c.id == one.id, *_live()))
    return found.scalar() is not None


async def rotate(
    connection: AsyncConnection, vault: Vault, old: Key, *, overlap_seconds: int, life_seconds: float | None
) -> tuple[Key, str]:
    """A key in place of a live one, with its name and scopes, and its text; the old one ends after the overlap, or earlier
    if it would have. Without `life_seconds` the new one never expires. Raises Conflict."""
    if old.replaced_by is not None:
        raise Conflict("the API key was rotated before", code="key_rotated")
    if old.name == CONFIGURED:
        raise Conflict("this API key is changed by its setting", code="key_configured")
    if not await _is_live(connection, old):
        raise Conflict("the API key is expired", code="key_expired")
    new, plain = await create(
        connection, vault, old.tenant_id, name=old.name, scopes=old.scopes, life_seconds=life_seconds
    )
    end = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, overlap_seconds)
    await connection.execute(
        update(api_key)
        .where(api_key.c.id == old.id)
        .values(replaced_by=new.id, expires_at=func.least(api_key.c.expires_at, end))
    )
    return new, plain


async def revoke(connection: AsyncConnection, tenant_id: UUID | None, key_id: UUID) -> bool:
    """From now on (at most 5 s in processes that know it) the key opens nothing. False: no such live key."""
    statement = update(api_key).where(api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
    if tenant_id is not None:
        statement = statement.where(api_key.c.tenant_id == tenant_id)
    done = await connection.execute(statement.values(revoked_at=func.now()))
    return done.rowcount == 1


async def find(connection: AsyncConnection, digest: bytes) -> Key | None:
    """The live key with that digest: neither revoked nor expired."""
    rows = await connection.execute(_select(api_key.c.digest == digest, *_live()))
    row = rows.one_or_none()
    return None if row is None else _key(row)


def _live() -> tuple[ColumnElement[bool], ...]:
    """Neither revoked nor expired."""
    unexpired = (api_key.c.expires_at.is_(None)) | (api_key.c.expires_at > func.now())
    return api_key.c.revoked_at.is_(None), unexpired


def _select(*where: ColumnElement[bool]) -> Select[Any]:
    columns = [column for column in api_key.c if column.name != "digest"]
    return (
        select(*columns, tenant.c.name.label("tenant"))
        .join(tenant, tenant.c.id == api_key.c.tenant_id)
        .where(*where)
    )


def _key(row: Row[Any]) -> Key:
    return Key(**(row._asdict() | {"scopes": frozenset(row.scopes)}))
