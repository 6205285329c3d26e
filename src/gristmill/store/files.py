"""Files that callers upload. The row is here; the bytes are in the storage, under a key of ids only.

Two systems cannot commit together, so bytes without a file are noted (`file_discard`): before an upload begins, and
when a file is deleted. Whoever is killed in between leaves a note, and `due` finds it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Uuid, any_, delete, exists, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.db import Transaction
from gristmill.domain.errors import Conflict, NotFound
from gristmill.store import quotas
from gristmill.tables import directory_file, file, file_discard

_UPLOAD_DAYS = 2  # longer than the slowest upload of the largest file takes


@dataclass(frozen=True, slots=True)
class NewFile:
    """What an upload has found out."""

    id: UUID
    filename: str
    media_type: str
    size: int
    sha256: bytes
    lines: int | None = None
    records: int | None = None
    purpose: str | None = None
    source_url: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    id: UUID
    filename: str  # as the caller named it: to show, never a path
    media_type: str  # by its first bytes, not by its name
    size: int  # in bytes
    sha256: bytes
    created_at: datetime
    purpose: str | None
    source_url: str | None
    lines: int | None  # that are not blank; None: not a text
    records: int | None  # as a CSV file has them, its header among them; None for JSON, too
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Filter:
    """None: any. `filename` is a part of the name, in either case; `named` is all of it."""

    filename: str | None = None
    named: str | None = None
    ids: Sequence[UUID] | None = None
    media_type: str | None = None
    purpose: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        wanted: list[ColumnElement[bool]] = []
        if self.filename is not None:
            wanted.append(file.c.filename.icontains(self.filename, autoescape=True))
        if self.named is not None:
            wanted.append(file.c.filename == self.named)
        if self.ids is not None:
            wanted.append(is_one_of(file.c.id, self.ids))
        if self.media_type is not None:
            wanted.append(file.c.media_type == self.media_type)
        if self.purpose is not None:
            wanted.append(file.c.purpose == self.purpose)
        if self.created_after is not None:
            wanted.append(file.c.created_at >= self.created_after)
        if self.created_before is not None:
            wanted.append(file.c.created_at < self.created_before)
        return wanted


@dataclass(frozen=True, slots=True)
class Discard:
    """Bytes that are to go."""

    tenant_id: UUID
    file_id: UUID


COLUMNS = (
    file.c.id,
    file.c.filename,
    file.c.media_type,
    file.c.bytes.label("size"),
    file.c.sha256,
    file.c.created_at,
    file.c.purpose,
    file.c.source_url,
    file.c.lines,
    file.c.records,
    file.c.expires_at,
)


# --- making ---------------------------------------------------------------------------------------------------


async def expect(connection: AsyncConnection, tenant_id: UUID, file_ids: Sequence[UUID]) -> None:
    """Bytes are on their way: should they never become a file, they go after two days."""
    rows = [{"file_id": one, "tenant_id": tenant_id} for one in file_ids]
    due_at = func.now() + text(f"interval '{_UPLOAD_DAYS} days'")
    await connection.execute(insert(file_discard).values(due_at=due_at), rows)


async def add(
    connection: AsyncConnection,
    tenant_id: UUID,
    news: Sequence[NewFile],
    *,
    retention_days: int | None,
    lifetime_seconds: int | None = None,
    most_bytes: int | None = None,
) -> list[File]:
    """The bytes are in their place already: a row never shows a file that is not all there.

    `retention_days` None: kept until they are deleted. `lifetime_seconds`: what their owner wants; the shorter time counts.
    `most_bytes`: that the tenant's files may have. Raises Conflict if they are not expected (any more), Forbidden for too
    many bytes.
    """
    await quotas.hold_bytes(connection, tenant_id, most_bytes, sum(new.size for new in news))
    ids = [new.id for new in news]
    expected = await connection.execute(
        delete(file_discard).where(
            file_discard.c.tenant_id == tenant_id, is_one_of(file_discard.c.file_id, ids)
        )
    )
    if expected.rowcount != len(ids):
        raise Conflict("the upload took too long; send it again")
    made = await connection.execute(
        insert(file)
        .values(expires_at=_from_now(retention_days, lifetime_seconds))
        .returning(*COLUMNS, sort_by_parameter_order=True),
        [_row(tenant_id, new) for new in news],
    )
    return [File(**row._asdict()) for row in made]


def _row(tenant_id: UUID, new: NewFile) -> dict[str, object]:
    return {
        "id": new.id,
        "tenant_id": tenant_id,
        "filename": new.filename,
        "media_type": new.media_type,
        "bytes": new.size,
        "sha256": new.sha256,
        "lines": new.lines,
        "records": new.records,
        "purpose": new.purpose,
        "source_url": new.source_url,
    }


# --- reading --------------------------------------------------------------------------------------------------


async def get(connection: AsyncConnection, tenant_id: UUID, file_id: UUID) -> File:
    """Raises NotFound."""
    row = (await connection.execute(select(*COLUMNS).where(_is(tenant_id, file_id)))).one_or_none()
    if row is None:
        raise NotFound("no such file")
    return File(**row._asdict())


async def page(
    connection: AsyncConnection,
    tenant_id: UUID,
    wanted: Filter,
    *,
    limit: int,
    offset: int = 0,
    before: UUID | None,
    oldest_first: bool = False,
) -> tuple[list[File], int]:
    """Newest first, and how many there are in all. `before`: only files that come behind that one."""
    mine = [file.c.tenant_id == tenant_id, *wanted.conditions()]
    total = (await connection.execute(select(func.count()).select_from(file).where(*mine))).scalar_one()
    chosen = _newer(before) if oldest_first else _older(before)
    rows = await connection.execute(chosen.where(*mine).limit(limit).offset(offset))
    return [File(**row._asdict()) for row in rows], total


def _older(before: UUID | None) -> Select[tuple[object, ...]]:
    newest_first = select(*COLUMNS).order_by(file.c.id.desc())
    return newest_first if before is None else newest_first.where(file.c.id < before)


def _newer(before: UUID | None) -> Select[tuple[object, ...]]:
    oldest_first = select(*COLUMNS).order_by(file.c.id)
    return oldest_first if before is None else oldest_first.where(file.c.id > before)


async def among(connection: AsyncConnection, tenant_id: UUID, ids: Iterable[UUID]) -> dict[UUID, File]:
    """Those of the ids that are files of this tenant."""
    rows = await connection.execute(
        select(*COLUMNS).where(file.c.tenant_id == tenant_id, is_one_of(file.c.id, ids))
    )
    return {row.id: File(**row._asdict()) for row in rows}


_ONE = f"{select(*COLUMNS)} WHERE tenant_id = $1 AND id = $2"


async def find(connection: Transaction, tenant_id: UUID, file_id: UUID) -> File | None:
    """One of this tenant's: asked for by each create of a batch from a file, by its ingest, and for each item of documents."""
    row = await connection.fetchrow(_ONE, tenant_id, file_id)
    return None if row is None else File(**row)


# --- removing -------------------------------------------------------------------------------------------------


async def keep(connection: AsyncConnection, tenant_id: UUID, file_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the ids that are files of the tenant, none of which goes before the commit."""
    rows = await connection.execute(
        select(file.c.id)
        .where(file.c.tenant_id == tenant_id, is_one_of(file.c.id, file_ids))
        .order_by(file.c.id)
        .with_for_update(read=True, key_share=True)
    )
    return set(rows.scalars())


async def remove(connection: AsyncConnection, tenant_id: UUID, file_ids: Sequence[UUID]) -> list[UUID]:
    """Out of every directory and gone; answers with those that were the tenant's. The bytes are due at once."""
    gone = await connection.execute(
        delete(file).where(file.c.tenant_id == tenant_id, is_one_of(file.c.id, file_ids)).returning(file.c.id)
    )
    ids = list(gone.scalars())
    await _discard(connection, [Discard(tenant_id, one) for one in ids])
    return ids


async def expire(connection: AsyncConnection, most: int) -> int:
    """Removes files whose time is over, `most` at a time; answers with how many those were."""
    over = (
        select(file.c.id)
        .where(file.c.expires_at < func.now())
        .order_by(file.c.expires_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    gone = await connection.execute(
        delete(file).where(file.c.id.in_(over)).returning(file.c.tenant_id, file.c.id)
    )
    discards = [Discard(row.tenant_id, row.id) for row in gone]
    await _discard(connection, discards)
    return len(discards)


async def _discard(connection: AsyncConnection, discards: Sequence[Discard]) -> None:
    if not discards:
        return
    ids = [one.file_id for one in discards]
    await connection.execute(delete(directory_file).where(is_one_of(directory_file.c.file_id, ids)))
    rows = [{"file_id": one.file_id, "tenant_id": one.tenant_id} for one in discards]
    await connection.execute(insert(file_discard).values(due_at=func.now()), rows)


async def give_up(connection: AsyncConnection, tenant_id: UUID, file_ids: Sequence[UUID]) -> list[UUID]:
    """An upload has failed: what there is of it is due at once. Answers with those that did not become files."""
    due = file_discard.update().where(
        file_discard.c.tenant_id == tenant_id, is_one_of(file_discard.c.file_id, file_ids)
    )
    rows = await connection.execute(due.values(due_at=func.now()).returning(file_discard.c.file_id))
    return list(rows.scalars())


async def due(connection: AsyncConnection, most: int) -> list[Discard]:
    """Bytes that are to go, the longest due first."""
    rows = await connection.execute(
        select(file_discard.c.tenant_id, file_discard.c.file_id)
        .where(file_discard.c.due_at <= func.now(), ~exists().where(file.c.id == file_discard.c.file_id))
        .order_by(file_discard.c.due_at)
        .limit(most)
    )
    return [Discard(row.tenant_id, row.file_id) for row in rows]


async def discarded(connection: AsyncConnection, discards: Sequence[Discard]) -> None:
    """Their bytes are gone."""
    ids = [one.file_id for one in discards]
    await connection.execute(delete(file_discard).where(is_one_of(file_discard.c.file_id, ids)))


def is_one_of(column: ColumnElement[UUID], ids: Iterable[UUID]) -> ColumnElement[bool]:
    """As one array: a list of single values may have 32,767 of them at most."""
    return column == any_(literal(list(ids), ARRAY(Uuid)))


def _is(tenant_id: UUID, file_id: UUID) -> ColumnElement[bool]:
    return (file.c.tenant_id == tenant_id) & (file.c.id == file_id)


def _from_now(days: int | None, seconds: int | None) -> object:
    limits = [limit for limit in (None if days is None else days * 86_400, seconds) if limit is not None]
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, min(limits)) if limits else None
