"""Directories: named sets of files. A file may be in several; a directory holds no bytes of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.ids import uuid7
from gristmill.store import files
from gristmill.store.files import File
from gristmill.tables import directory, directory_file, file

MAX_FILES = 100_000  # of one directory: a batch of them is one tenth of the largest


@dataclass(frozen=True, slots=True)
class Directory:
    id: UUID
    name: str
    created_at: datetime
    dialect_facts: str | None  # JSON that only a dialect reads
    files: int  # how many are in it


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a directory. `name` is the file's own, or its path in the archive that it came in."""

    name: str
    added_at: datetime
    dialect_facts: str | None  # JSON that only a dialect reads
    file: File


_FILES = (
    select(func.count())
    .select_from(directory_file)
    .where(directory_file.c.directory_id == directory.c.id)
    .scalar_subquery()
)
_COLUMNS = (
    directory.c.id,
    directory.c.name,
    directory.c.created_at,
    directory.c.dialect_facts,
    _FILES.label("files"),
)
_ENTRY = (directory_file.c.name, directory_file.c.added_at, directory_file.c.dialect_facts, *files.COLUMNS)


async def create(
    connection: AsyncConnection, tenant_id: UUID, name: str, *, facts: str | None = None
) -> Directory:
    directory_id = uuid7()
    new = {"id": directory_id, "tenant_id": tenant_id, "name": name, "dialect_facts": facts}
    await connection.execute(insert(directory).values(new))
    return await get(connection, tenant_id, directory_id)


async def get(connection: AsyncConnection, tenant_id: UUID, directory_id: UUID) -> Directory:
    """Raises NotFound."""
    found = await connection.execute(select(*_COLUMNS).where(_is(tenant_id, directory_id)))
    row = found.one_or_none()
    if row is None:
        raise NotFound("no such directory")
    return Directory(**row._asdict())


async def page(
    connection: AsyncConnection,
    tenant_id: UUID,
    name: str | None,
    *,
    limit: int,
    offset: int,
    before: UUID | None,
) -> tuple[list[Directory], int]:
    """Newest first, and how many there are in all. `name`: only those called so. `before`: only older ones."""
    mine = directory.c.tenant_id == tenant_id
    if name is not None:
        mine &= directory.c.name == name
    total = (await connection.execute(select(func.count()).select_from(directory).where(mine))).scalar_one()
    older = mine if before is None else mine & (directory.c.id < before)
    rows = await connection.execute(
        select(*_COLUMNS).where(older).order_by(directory.c.id.desc()).limit(limit).offset(offset)
    )
    return [Directory(**row._asdict()) for row in rows], total


async def remove(connection: AsyncConnection, tenant_id: UUID, directory_id: UUID) -> list[UUID]:
    """The directory, not its files: answers with their ids. Raises NotFound."""
    gone = await connection.execute(delete(directory).where(_is(tenant_id, directory_id)))
    if gone.rowcount == 0:
        raise NotFound("no such directory")
    left = await connection.execute(
        delete(directory_file)
        .where(directory_file.c.directory_id == directory_id)
        .returning(directory_file.c.file_id)
    )
    return list(left.scalars())


# --- what is in it --------------------------------------------------------------------------------------------


async def add(
    connection: AsyncConnection,
    tenant_id: UUID,
    directory_id: UUID,
    names: Mapping[UUID, str],
    *,
    facts: str | None = None,
) -> Directory:
    """Files of the tenant, each with its name in there; those that are in it already stay as they are. `facts`: of each,
    JSON that only a dialect reads.

    What is no file of the tenant's (any more) is left out. Raises NotFound for the directory, Conflict for one file
    too many.
    """
    await _lock(connection, tenant_id, directory_id)
    kept = await files.keep(connection, tenant_id, names)
    rows = [{"file_id": file_id, "name": name} for file_id, name in names.items() if file_id in kept]
    if rows:
        await connection.execute(
            insert(directory_file)
            .values(directory_id=directory_id, dialect_facts=facts)
            .on_conflict_do_nothing(),
            rows,
        )
    found = await get(connection, tenant_id, directory_id)
    if found.files > MAX_FILES:
        raise Conflict(f"a directory holds at most {MAX_FILES} files", code="directory_full")
    return found


async def _lock(connection: AsyncConnection, tenant_id: UUID, directory_id: UUID) -> None:
    """Its files are counted and it is not deleted until the commit. Raises NotFound."""
    found = await connection.execute(
        select(directory.c.id).where(_is(tenant_id, directory_id)).with_for_update()
    )
    if found.one_or_none() is None:
        raise NotFound("no such directory")


async def entries(
    connection: AsyncConnection,
    tenant_id: UUID,
    directory_id: UUID,
    *,
    limit: int,
    offset: int,
    before: UUID | None,
) -> tuple[list[Entry], int]:
    """Newest files first, and how many there are in all. Raises NotFound."""
    total = (await get(connection, tenant_id, directory_id)).files
    wanted = (directory_file.c.directory_id == directory_id) & (file.c.tenant_id == tenant_id)
    if before is not None:
        wanted &= directory_file.c.file_id < before
    rows = await connection.execute(
        select(*_ENTRY)
        .join(file, file.c.id == directory_file.c.file_id)
        .where(wanted)
        .order_by(directory_file.c.file_id.desc())
        .limit(limit)
        .offset(offset)
    )
    return [_entry(row._asdict()) for row in rows], total


async def entry(connection: AsyncConnection, tenant_id: UUID, directory_id: UUID, file_id: UUID) -> Entry:
    """Raises NotFound for either."""
    await get(connection, tenant_id, directory_id)
    found = await connection.execute(
        select(*_ENTRY)
        .join(file, file.c.id == directory_file.c.file_id)
        .where(
            directory_file.c.directory_id == directory_id,
            directory_file.c.file_id == file_id,
            file.c.tenant_id == tenant_id,
        )
    )
    row = found.one_or_none()
    if row is None:
        raise NotFound("no such file in this directory")
    return _entry(row._asdict())


def _entry(row: dict[str, object]) -> Entry:
    name, added_at, facts = row.pop("name"), row.pop("added_at"), row.pop("dialect_facts")
    return Entry(name, added_at, facts, File(**row))  # type: ignore[arg-type]  # columns of the statement above


async def take_out(
    connection: AsyncConnection, tenant_id: UUID, directory_id: UUID, file_ids: Sequence[UUID]
) -> int:
    """The files stay files. Answers with how many were in it. Raises NotFound for the directory."""
    await _lock(connection, tenant_id, directory_id)
    gone = await connection.execute(
        delete(directory_file).where(
            directory_file.c.directory_id == directory_id,
            files.is_one_of(directory_file.c.file_id, file_ids),
        )
    )
    return gone.rowcount


def _is(tenant_id: UUID, directory_id: UUID) -> ColumnElement[bool]:
    return (directory.c.tenant_id == tenant_id) & (directory.c.id == directory_id)
