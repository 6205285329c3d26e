from collections.abc import AsyncIterator

import openai
import pytest

from databases import Server
from served import Served, serving


@pytest.fixture(scope="session")
async def mill(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("openai")
    async with serving(server, folder) as mill:
        yield mill


@pytest.fixture
async def client(mill: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, unmodified, with a tenant of its own."""
    async with openai.AsyncOpenAI(base_url=f"{mill.url}/v1", api_key=await mill.key()) as client:
        yield client
