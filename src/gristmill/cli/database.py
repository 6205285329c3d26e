"""Which Postgres a command works on: the configured one, that of a running `serve`, or one it starts itself."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gristmill.cli.refusal import Refusal
from gristmill.db import Database
from gristmill.embedded.errors import EmbeddedPostgresError
from gristmill.embedded.postgres import EmbeddedPostgres, running_url
from gristmill.settings import Settings
from gristmill.store import schema

_LOOK_SECONDS = 0.5

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings, *, share: bool) -> AsyncIterator[Database]:
    """`share`: with an embedded Postgres, use the one that a `serve` keeps running, if there is one."""
    async with _url(settings, share=share) as url:
        database = await _connect(settings, url)
        try:
            yield database
        finally:
            await database.close()


@asynccontextmanager
async def migrated(settings: Settings, *, share: bool) -> AsyncIterator[Database]:
    """At this version's schema, brought there unless the settings leave that to `gristmill migrate`."""
    async with opened(settings, share=share) as database:
        if settings.migrate_on_start:
            await schema.migrate(database)
        elif not await schema.at_head(database):
            raise Refusal("the database is not at this version's schema: run `gristmill migrate`")
        yield database


def folder(settings: Settings) -> Path:
    return settings.data_dir / "postgres"


@asynccontextmanager
async def _url(settings: Settings, *, share: bool) -> AsyncIterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
    elif share and (url := running_url(folder(settings))):
        yield url
    else:
        async with _embedded(folder(settings)) as url:
            yield url


@asynccontextmanager
async def _embedded(where: Path) -> AsyncIterator[str]:
    postgres = EmbeddedPostgres(where)
    try:
        await asyncio.to_thread(postgres.start)
    except EmbeddedPostgresError as error:
        raise Refusal(str(error)) from None
    end = asyncio.Event()
    keeper = asyncio.create_task(_keep_alive(postgres, end))
    try:
        yield postgres.url
    finally:
        end.set()
        await keeper
        await asyncio.to_thread(postgres.stop)


async def _keep_alive(postgres: EmbeddedPostgres, end: asyncio.Event) -> None:
    """It is our child, so nobody else would start it again."""
    while not end.is_set():
        if not postgres.alive:
            log.error("the embedded Postgres died; starting it again")
            try:
                await asyncio.to_thread(postgres.revive)
            except EmbeddedPostgresError:
                log.exception("it could not be started; trying again")
        try:
            await asyncio.wait_for(end.wait(), _LOOK_SECONDS)
        except TimeoutError:
            continue


async def _connect(settings: Settings, url: str) -> Database:
    try:
        database = Database(
            url,
            pool_size=settings.database_pool_size,
            timeout_seconds=settings.database_timeout_seconds,
            prepared=settings.database_prepared_statements,
            listen_url=settings.database_listen_url.get_secret_value()
            if settings.database_listen_url
            else None,
        )
        return await database.open()
    except (
        Exception
    ) as error:  # a wrong host, password, name or certificate: whatever it is, the operator must mend it
        raise Refusal(f"Postgres cannot be used: {str(error) or type(error).__name__}") from error
