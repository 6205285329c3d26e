"""A pool that is shared, and files of every kind made once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from documents.producers import PRODUCERS
from gristmill.documents import Document, ParserPool

Read = Callable[[Path], Awaitable[Document]]


@pytest.fixture(scope="session")
async def pool() -> AsyncIterator[ParserPool]:
    async with ParserPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("documents")
    for name, produce in PRODUCERS.items():
        produce(folder / name)
    return {name: folder / name for name in PRODUCERS}
