"""Files that callers upload. The row is here; the bytes lie below the data folder, named by ids only."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import NotFound
from gristmill.domain.files import Attachment
from gristmill.tables import file


@dataclass(frozen=True, slots=True)
class File:
    id: UUID
    filename: str  # as the caller named it: to show, never a path
    media_type: str  # by its first bytes, not by its name
    size: int  # in bytes
    sha256: bytes
    created_at: datetime


_COLUMNS = (
    file.c.id,
    file.c.filename,
    file.c.media_type,
    file.c.bytes.label("size"),
    file.c.sha256,
    file.c.created_at,
)


def path(root: Path, tenant_id: UUID, file_id: UUID) -> Path:
    """Where the bytes are. `root` is the data folder."""
    return root / "files" / str(tenant_id) / str(file_id)


async def add(
    connection: AsyncConnection,
    tenant_id: UUID,
    file_id: UUID,
    *,
    filename: str,
    media_type: str,
    size: int,
    sha256: bytes,
) -> File:
    """The bytes are in their place already: a row never shows a file that is not all there."""
    made = await connection.execute(
        insert(file)
        .values(
            id=file_id,
            tenant_id=tenant_id,
            filename=filename,
            media_type=media_type,
            bytes=size,
            sha256=sha256,
        )
        .returning(*_COLUMNS)
    )
    return File(**made.one()._asdict())


async def get(connection: AsyncConnection, tenant_id: UUID, file_id: UUID) -> File:
    """Raises NotFound."""
    row = (await connection.execute(select(*_COLUMNS).where(_is(tenant_id, file_id)))).one_or_none()
    if row is None:
        raise NotFound("no such file")
    return File(**row._asdict())


async def page(
    connection: AsyncConnection, tenant_id: UUID, *, limit: int, offset: int, before: UUID | None
) -> tuple[list[File], int]:
    """Newest first, and how many there are in all. `before`: only files older than that one."""
    mine = file.c.tenant_id == tenant_id
    total = (await connection.execute(select(func.count()).select_from(file).where(mine))).scalar_one()
    older = mine if before is None else mine & (file.c.id < before)
    rows = await connection.execute(
        select(*_COLUMNS).where(older).order_by(file.c.id.desc()).limit(limit).offset(offset)
    )
    return [File(**row._asdict()) for row in rows], total


async def among(connection: AsyncConnection, tenant_id: UUID, ids: Iterable[UUID]) -> dict[UUID, File]:
    """Those of the ids that are files of this tenant."""
    rows = await connection.execute(
        select(*_COLUMNS).where(file.c.tenant_id == tenant_id, file.c.id.in_(list(ids)))
    )
    return {row.id: File(**row._asdict()) for row in rows}


async def remove(connection: AsyncConnection, tenant_id: UUID, file_id: UUID) -> None:
    """Forgets the row; the bytes are unlinked by the caller after the commit. Raises NotFound."""
    done = await connection.execute(delete(file).where(_is(tenant_id, file_id)))
    if done.rowcount == 0:
        raise NotFound("no such file")


async def read(connection: AsyncConnection, root: Path, tenant_id: UUID, file_id: UUID) -> Attachment | None:
    """The file with its bytes; None if there is none, or no longer."""
    row: Any = (await connection.execute(select(*_COLUMNS).where(_is(tenant_id, file_id)))).one_or_none()
    if row is None:
        return None
    try:
        data = await asyncio.to_thread(path(root, tenant_id, file_id).read_bytes)
    except FileNotFoundError:
        return None
    return Attachment(id=row.id, filename=row.filename, media_type=row.media_type, data=data)


def _is(tenant_id: UUID, file_id: UUID) -> ColumnElement[bool]:
    return (file.c.tenant_id == tenant_id) & (file.c.id == file_id)
