"""Finished batches by the million, without working them off: each is one that was worked off, row by row, under another id."""

import asyncio

import asyncpg

from gristmill.db import connect_options
from gristmill.domain.ids import uuid7

_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# With the column that holds the batch's id.
TABLES = (
    ("item", "batch_id"),
    ("result", "batch_id"),
    ("result_log", "batch_id"),
    ("batch_count", "batch_id"),
    ("batch", "id"),
)


def finished(url: str, batch_id: str, copies: int) -> None:
    """So many copies of that batch; then vacuum and a checkpoint, which a server that has done the work would have behind it."""
    asyncio.run(_finished(url, batch_id, copies))


async def _finished(url: str, batch_id: str, copies: int) -> None:
    connection = await asyncpg.connect(**connect_options(url))
    try:
        for _ in range(copies):
            async with connection.transaction():
                await _copy(connection, batch_id)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _copy(connection: "asyncpg.Connection[asyncpg.Record]", batch_id: str) -> None:
    new = uuid7()
    for table, key in TABLES:
        columns = [row[0] for row in await connection.fetch(_COLUMNS, table)]
        rest = ", ".join(f'"{name}"' for name in columns if name != key)
        await connection.execute(
            f"INSERT INTO {table} ({key}, {rest}) SELECT $1, {rest} FROM {table} WHERE {key} = $2",
            new,
            batch_id,
        )
