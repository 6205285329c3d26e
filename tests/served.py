"""A real `gristmill serve` with a worker, a fake model and a folder opened to callers, for tests that meet it as strangers do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx2

from command import Command
from databases import Server
from fakes.llm import FakeLLM
from gristmill.db import Database
from gristmill.store import keys
from service import VAULT
from stranger import Mill

SECRET_KEY = "a secret key for tests, 32 bytes"  # of tests/service.py, which makes the keys
ADMIN_KEY = "gm_the-operators-own-key-in-the-settings"
LLM_KEY = "sk-of-the-endpoint-0123456789"


@dataclass(frozen=True)
class Served(Mill):
    """`folder` is GRISTMILL_LOCAL_ROOT."""

    folder: Path

    async def key(self, *scopes: str) -> str:
        """Of a tenant of its own; without scopes it may do everything."""
        async with self.database.engine.begin() as connection:
            tenant_id = await keys.ensure_tenant(connection, f"tenant {uuid4()}")
            _, plain = await keys.create(
                connection, VAULT, tenant_id, name="test", scopes=scopes or ("admin",)
            )
        return plain


@asynccontextmanager
async def serving(server: Server, home: Path, **more: str) -> AsyncIterator[Served]:
    """On a database of its own, which is gone afterwards: the workers of two would take each other's items. `more`: further
    settings by their names in lower case."""
    folder, name = home / "documents", f"{server.template}_{uuid4().hex[:12]}"
    folder.mkdir()
    url = await server.create(name, template=server.template)
    async with FakeLLM(api_key=LLM_KEY) as llm, _opened(url) as database:
        command = Command(_settings(url, home, llm, more), log=home / "log")
        with command.serve() as running:
            async with httpx2.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
                yield Served(command, running, client, database, llm, home / "log", folder)
            # In a thread: the model answers on this loop what is still running.
            assert await asyncio.to_thread(running.stop) == 0
    await server.drop(name)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = await Database(url).open()
    yield database
    await database.close()


def _settings(url: str, home: Path, llm: FakeLLM, more: dict[str, str]) -> dict[str, str]:
    settings = {
        "database_url": url,
        "data_dir": str(home),
        "secret_key": SECRET_KEY,
        "api_key": ADMIN_KEY,
        "allow_private_addresses": "true",
        "local_root": str(home / "documents"),
        "llm_base_url": llm.url,
        "llm_api_key": LLM_KEY,
        "llm_model": "fake-model",
        "poll_seconds": "0.1",
        "drain_seconds": "2",
        "log_level": "debug",
    }
    return {f"GRISTMILL_{setting.upper()}": value for setting, value in (settings | more).items()}
