"""One server for all tests of this folder, each with a tenant of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from command import Command
from fakes.llm import FakeLLM
from fakes.receiver import Receiver
from gristmill.db import Database
from stranger import Mill, Stranger, arrive

SECRET_KEY = "a secret key for tests, 32 bytes"  # of tests/service.py, which makes the keys
ADMIN_KEY = "gm_the-operators-own-key-in-the-settings"
LLM_KEY = "sk-of-the-endpoint-0123456789"


@pytest.fixture(scope="session")
async def mill_url(server, worker_id: str) -> AsyncIterator[str]:  # type: ignore[no-untyped-def]
    """A migrated database for the server of all these tests."""
    name = f"{server.template}_mill_{worker_id}"
    yield await server.create(name, template=server.template)
    await server.drop(name)


@pytest.fixture(scope="session")
async def mill(mill_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mill]:
    folder = tmp_path_factory.mktemp("mill")
    async with FakeLLM(api_key=LLM_KEY) as llm, _opened(mill_url) as database:
        command = Command(_settings(mill_url, folder, llm), log=folder / "log")
        with command.serve() as running:
            async with httpx2.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
                yield Mill(command, running, client, database, llm, folder / "log")
            # In a thread: the model answers on this loop what is still running.
            assert await asyncio.to_thread(running.stop) == 0


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = await Database(url).open()
    yield database
    await database.close()


def _settings(url: str, folder: Path, llm: FakeLLM) -> dict[str, str]:
    settings = {
        "database_url": url,
        "data_dir": str(folder),
        "secret_key": SECRET_KEY,
        "api_key": ADMIN_KEY,
        "allow_private_addresses": "true",
        "llm_base_url": llm.url,
        "llm_api_key": LLM_KEY,
        "llm_model": "fake-model",
        "poll_seconds": "0.1",
        "drain_seconds": "2",
        "log_level": "debug",
    }
    return {f"GRISTMILL_{name.upper()}": value for name, value in settings.items()}


@pytest.fixture
async def stranger(mill: Mill) -> Stranger:
    return await arrive(mill)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver
