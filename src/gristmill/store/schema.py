"""Brings a database to this version's schema: the migrations, then the partitions of the weeks ahead."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import gristmill
from gristmill.db import Database
from gristmill.store import partitions

LOCK = 7_239_467_100_216_593_001  # any number that nobody else in this database uses
_STATEMENT_TIMEOUT_SECONDS = 3600.0  # a migration may rewrite a table, and others wait for it


async def at_head(database: Database) -> bool:
    """Whether the database has exactly this version's schema."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(_is_at_head)


async def migrate(database: Database) -> None:
    """Upgrades to the newest revision. Several processes may do so at once: one works, the others wait."""
    if not await at_head(database):
        await _upgrade(database)
    await partitions.ensure(database)


async def _upgrade(database: Database) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: database.connect(command_timeout=_STATEMENT_TIMEOUT_SECONDS),
        poolclass=NullPool,
    )
    # One transaction around it all. Whoever waited here finds the work done: alembic then has nothing to do.
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        await connection.run_sync(lambda plain: command.upgrade(config(plain), "head"))


def config(connection: Connection | None = None) -> Config:
    """What alembic's commands need: where the migrations are, and the connection to run them on."""
    package = Path(gristmill.__file__).parent
    checkout = package.parents[1] / "migrations"
    made = Config()
    made.set_main_option("script_location", str(checkout if checkout.is_dir() else package / "_migrations"))
    made.attributes["connection"] = connection
    return made


def _is_at_head(connection: Connection) -> bool:
    current = MigrationContext.configure(connection).get_current_heads()
    return set(current) == set(ScriptDirectory.from_config(config()).get_heads())
