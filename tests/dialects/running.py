"""The whole service for tests of dialects that work with documents: a real `gristmill serve`, with a folder opened to
callers, and a model over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from command import Command
from databases import Server
from fakes.llm import FakeLLM
from gristmill.db import Database
from stranger import Mill

SECRET_KEY = "a secret key for tests, 32 bytes"  # of tests/service.py, which makes the keys
LLM_KEY = "sk-of-the-endpoint-0123456789"


@dataclass(frozen=True)
class DocumentMill(Mill):
    """`folder` is GRISTMILL_LOCAL_ROOT."""

    folder: Path


@asynccontextmanager
async def document_mill(
    server: Server, name: str, home: Path, more: Mapping[str, str] | None = None
) -> AsyncIterator[DocumentMill]:
    """A server on a database of its own, which is gone afterwards. `more`: of its environment."""
    folder = home / "documents"
    folder.mkdir()
    url = await server.create(name, template=server.template)
    async with FakeLLM(api_key=LLM_KEY) as llm, _opened(url) as database:
        command = Command(_settings(url, home, llm) | dict(more or {}), log=home / "log")
        with command.serve() as running:
            async with httpx2.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
                yield DocumentMill(command, running, client, database, llm, home / "log", folder)
            # In a thread: the model answers on this loop what is still running.
            assert await asyncio.to_thread(running.stop) == 0
    await server.drop(name)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = await Database(url).open()
    yield database
    await database.close()


def _settings(url: str, home: Path, llm: FakeLLM) -> dict[str, str]:
    settings = {
        "database_url": url,
        "data_dir": str(home),
        "secret_key": SECRET_KEY,
        "api_key": "gm_the-operators-own-key-in-the-settings",
        "allow_private_addresses": "true",
        "local_root": str(home / "documents"),
        "llm_base_url": llm.url,
        "llm_api_key": LLM_KEY,
        "llm_model": "fake-model",
        "poll_seconds": "0.1",
        "drain_seconds": "2",
        "log_level": "debug",
    }
    return {f"GRISTMILL_{name.upper()}": value for name, value in settings.items()}
