"""The partitions of the big tables: one per week in which its batches were created, made ahead of time."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import asyncpg

from gristmill.db import Database
from gristmill.domain.ids import first_uuid7_at
from gristmill.tables import PARTITIONED

_WEEK = timedelta(weeks=1)
_WEEKS_BACK, _WEEKS_AHEAD = 1, 4
# What a creator sees when another one was faster.
_MADE_MEANWHILE = (
    asyncpg.DuplicateTableError,
    asyncpg.UniqueViolationError,
    asyncpg.InvalidObjectDefinitionError,
)


async def ensure(database: Database) -> None:
    """Makes the partitions that are missing; several processes may do so at once.

    Those that exist are looked up first, as CREATE TABLE would lock the whole table only to find them there.
    """
    connection = await database.connect()
    try:
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        existing = {row["relname"] for row in rows}
        for table in PARTITIONED:
            for monday in _mondays(datetime.now(UTC)):
                if name(table, monday) not in existing:
                    await _create(connection, table, monday)
    finally:
        await connection.close()


def name(table: str, monday: datetime) -> str:
    return f"{table}_w{monday:%Y%m%d}"


def _mondays(now: datetime) -> Iterator[datetime]:
    """Midnight UTC of the Mondays from last week's to that of four weeks ahead."""
    today = datetime.combine(now.date(), time(), UTC)
    this = today - timedelta(days=today.weekday())
    return (this + weeks * _WEEK for weeks in range(-_WEEKS_BACK, _WEEKS_AHEAD + 1))


async def _create(connection: "asyncpg.Connection[asyncpg.Record]", table: str, monday: datetime) -> None:
    first, end = (first_uuid7_at(int(at.timestamp() * 1000)) for at in (monday, monday + _WEEK))
    try:
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {name(table, monday)} PARTITION OF {table} "
            f"FOR VALUES FROM ('{first}') TO ('{end}')"
        )
    except _MADE_MEANWHILE:
        return
