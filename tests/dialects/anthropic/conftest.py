from collections.abc import AsyncIterator

import anthropic
import pytest

from databases import Server
from served import Served, serving


@pytest.fixture(scope="session")
async def mill(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("anthropic")
    async with serving(server, folder) as mill:
        yield mill


@pytest.fixture
async def client(mill: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official client, unmodified, with a tenant of its own."""
    async with anthropic.AsyncAnthropic(base_url=mill.url, api_key=await mill.key()) as client:
        yield client
