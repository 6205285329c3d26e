"""Runs the migrations over the connection it is handed (`Config.attributes["connection"]`), or to GRISTMILL_DATABASE_URL."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from gristmill.db import Database
from gristmill.settings import Settings
from gristmill.tables import metadata


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_from_command_line() -> None:
    url = Settings().database_url
    if url is None:
        raise SystemExit("set GRISTMILL_DATABASE_URL")
    database = Database(url.get_secret_value())
    async with database.engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await database.close()


if given := context.config.attributes.get("connection"):
    run(given)
else:
    asyncio.run(run_from_command_line())
