"""A real `gristmill serve` with a worker and a fake model, for tests that meet it by a client of somebody else's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from command import Command
from databases import Server
from fakes.llm import FakeLLM
from gristmill.db import Database
from gristmill.store import keys
from service import VAULT

SECRET_KEY = "a secret key for tests, 32 bytes"  # of tests/service.py, which makes the keys


@dataclass(frozen=True)
class Served:
    """`database` is for making keys and for moving the clock, never for looking what happened."""

    url: str
    database: Database
    llm: FakeLLM

    async def key(self, *scopes: str) -> str:
        """Of a tenant of its own; without scopes it may do everything."""
        async with self.database.engine.begin() as connection:
            tenant_id = await keys.ensure_tenant(connection, f"tenant {uuid4()}")
            _, plain = await keys.create(
                connection, VAULT, tenant_id, name="test", scopes=scopes or ("admin",)
            )
        return plain


@asynccontextmanager
async def serving(server: Server, name: str, folder: Path, **more: str) -> AsyncIterator[Served]:
    """`more`: further settings by their names in lower case."""
    url = await server.create(name, template=server.template)
    async with FakeLLM() as llm:
        database = await Database(url).open()
        command = Command(_settings(url, folder, llm) | _named(more), log=folder / "log")
        with command.serve() as running:
            yield Served(running.url, database, llm)
            # In a thread: the model answers on this loop what is still running.
            assert await asyncio.to_thread(running.stop) == 0
        await database.close()
    await server.drop(name)


def _settings(url: str, folder: Path, llm: FakeLLM) -> dict[str, str]:
    return _named(
        {
            "database_url": url,
            "data_dir": str(folder),
            "secret_key": SECRET_KEY,
            "api_key": "gm_the-operators-own-key-in-the-settings",
            "allow_private_addresses": "true",
            "llm_base_url": llm.url,
            "llm_model": "fake-model",
            "poll_seconds": "0.1",
            "drain_seconds": "2",
        }
    )


def _named(settings: dict[str, str]) -> dict[str, str]:
    return {f"GRISTMILL_{name.upper()}": value for name, value in settings.items()}
