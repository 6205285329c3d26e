"""The migrations and the tables must say the same."""

import asyncio
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from command import Command
from gristmill.db import Database
from gristmill.store import schema
from gristmill.tables import PARTITIONED, metadata


async def test_an_empty_database_becomes_what_the_tables_say(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert not await schema.at_head(database)
    await schema.migrate(database)
    assert await schema.at_head(database)
    assert await _differences(database) == []
    await database.close()


async def test_down_to_nothing_and_up_again(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with database.engine.begin() as connection:
        await connection.run_sync(lambda plain: command.downgrade(schema.config(plain), "base"))
        left = await connection.run_sync(lambda plain: plain.dialect.get_table_names(plain))
    assert left == ["alembic_version"]
    await schema.migrate(database)
    assert await _differences(database) == []
    await database.close()


async def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    command = Command({"GRISTMILL_DATABASE_URL": empty_database_url})
    done = await asyncio.gather(*(asyncio.to_thread(command.run, "migrate") for _ in range(3)))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3
    database = Database(empty_database_url)
    assert await _differences(database) == []
    await database.close()


async def test_one_waits_for_the_other(empty_database_url: str) -> None:
    """The lock is held by somebody else: nothing is done until it is free."""
    database = Database(empty_database_url)
    holder = await database.connect()
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT pg_advisory_xact_lock($1)", schema.LOCK)
    migrating = asyncio.create_task(schema.migrate(database))
    while not await holder.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    ):
        await asyncio.sleep(0.02)
    assert await holder.fetchval("SELECT to_regclass('tenant')") is None
    await transaction.rollback()
    await migrating
    assert await schema.at_head(database)
    await holder.close()
    await database.close()


async def test_the_weeks_from_last_to_four_ahead_have_partitions(own_database_url: str) -> None:
    database = Database(own_database_url)
    connection = await database.connect()
    names = [
        row[0]
        for row in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
        )
    ]
    assert len(names) == len(PARTITIONED) * 6
    await connection.execute(f"DROP TABLE {names[0]}")
    await schema.migrate(database)  # at head already: the partitions are looked after all the same
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = $1", names[0]) == 1
    await connection.close()
    await database.close()


async def _differences(database: Database) -> list[Any]:
    async with database.engine.connect() as connection:
        return await connection.run_sync(_compare)


def _compare(connection: Connection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True, "include_object": _is_no_partition}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def _is_no_partition(thing: Any, name: str | None, kind: str, reflected: bool, compared_to: Any) -> bool:
    table = thing if kind == "table" else getattr(thing, "table", thing)
    return "_w20" not in table.name
