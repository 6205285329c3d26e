"""The partitions of the big tables: one per week in which its batches were created, made ahead of time, dropped when
none of its batches is kept any more."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from uuid import UUID

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


# Those who read and write other partitions wait behind the one who drops, for so long at most.
_DROP_LOCK_TIMEOUT = "200ms"
_KEPT = "SELECT EXISTS (SELECT FROM batch WHERE id >= $1 AND id < $2)"
_REMAINS = "DELETE FROM batch_remains WHERE batch_id >= $1 AND batch_id < $2"


async def drop_empty(database: Database) -> int:
    """Drops the partitions of past weeks of which no batch is kept, with what was still to be erased there; answers with
    how many. One that is in use is left for the next time."""
    connection = await database.connect(server_settings={"lock_timeout": _DROP_LOCK_TIMEOUT})
    dropped = 0
    try:
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        existing = {row["relname"] for row in rows}
        for monday in sorted(_past(existing, datetime.now(UTC))):
            first, end = _range(monday)
            if await connection.fetchval(_KEPT, first, end):
                continue
            for table in PARTITIONED:
                if name(table, monday) in existing:
                    await connection.execute(f"DROP TABLE IF EXISTS {name(table, monday)}")
                    dropped += 1
            await connection.execute(_REMAINS, first, end)
    except asyncpg.LockNotAvailableError:
        return dropped
    finally:
        await connection.close()
    return dropped


def _past(existing: Iterable[str], now: datetime) -> set[datetime]:
    """The Mondays of partitions that are there, and that `ensure` would not make again."""
    earliest = next(_mondays(now))
    found = {
        datetime.strptime(one[-8:], "%Y%m%d").replace(tzinfo=UTC) for one in existing if _OURS.fullmatch(one)
    }
    return {monday for monday in found if monday < earliest}


_OURS = re.compile(rf"({'|'.join(PARTITIONED)})_w[0-9]{{8}}")


def name(table: str, monday: datetime) -> str:
    return f"{table}_w{monday:%Y%m%d}"


def _range(monday: datetime) -> tuple[UUID, UUID]:
    """The ids of the batches of that week: from the first on, before the second."""
    first, end = (first_uuid7_at(int(at.timestamp() * 1000)) for at in (monday, monday + _WEEK))
    return first, end


def _mondays(now: datetime) -> Iterator[datetime]:
    """Midnight UTC of the Mondays from last week's to that of four weeks ahead."""
    today = datetime.combine(now.date(), time(), UTC)
    this = today - timedelta(days=today.weekday())
    return (this + weeks * _WEEK for weeks in range(-_WEEKS_BACK, _WEEKS_AHEAD + 1))


async def _create(connection: "asyncpg.Connection[asyncpg.Record]", table: str, monday: datetime) -> None:
    first, end = _range(monday)
    try:
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {name(table, monday)} PARTITION OF {table} "
            f"FOR VALUES FROM ('{first}') TO ('{end}')"
        )
    except _MADE_MEANWHILE:
        return
