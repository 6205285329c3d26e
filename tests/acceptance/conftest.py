"""One server for all tests of this folder, each with a tenant of its own."""

from collections.abc import AsyncIterator

import pytest

from databases import Server
from fakes.receiver import Receiver
from served import Served, serving
from stranger import Stranger, arrive


@pytest.fixture(scope="session")
async def mill(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(server, tmp_path_factory.mktemp("mill")) as mill:
        yield mill


@pytest.fixture
async def stranger(mill: Served) -> Stranger:
    return await arrive(mill)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver
