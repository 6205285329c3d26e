import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gristmill import dialects
from gristmill.api.app import create_app
from gristmill.db import Database
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.opening import open_storage
from service import VAULT, Caller, Service, new_tenant


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, host="127.0.0.1", port=8000)


@pytest.fixture
async def service(database: Database, settings: Settings) -> AsyncIterator[Service]:
    """The application with every dialect, called without a socket. No worker runs."""
    woken = asyncio.Event()
    async with HttpSession(allow_private=False) as http:
        storage = open_storage(settings)
        app = create_app(database, VAULT, settings, wake=lambda *_: woken.set(), http=http, storage=storage)
        dialects.install(app)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://attacker.test") as client:
            yield Service(app, database, client, woken)


@pytest.fixture
async def caller(service: Service) -> Caller:
    """A tenant of its own, with a key that may do everything."""
    return await new_tenant(service)


@pytest.fixture
async def other(service: Service) -> Caller:
    """Another tenant."""
    return await new_tenant(service)
