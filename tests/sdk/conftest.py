"""Only with --sdk, as `make sdk` runs it: packages are installed for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from databases import Server
from served import Served, serving


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if config.getoption("--sdk") else True


@pytest.fixture(scope="session")
async def mill(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """With a model that takes its time: batches of thousands can be cancelled while they run."""
    folder = tmp_path_factory.mktemp("sdk")
    async with serving(server, folder) as mill:
        mill.llm.latency_seconds = 0.05
        yield mill
