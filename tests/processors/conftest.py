from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from documents.producers import PRODUCERS
from fakes.llm import FakeLLM
from fakes.receiver import Receiver
from fakes.world import KEY, World, open_world
from gristmill.documents import ParserPool
from gristmill.domain.sources import LocalSource, OpenSource, Source


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM(api_key=KEY) as server:
        yield server


@pytest.fixture
async def world(llm: FakeLLM) -> AsyncIterator[World]:
    async with open_world(llm) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
async def pool() -> AsyncIterator[ParserPool]:
    async with ParserPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of every kind one, by name."""
    folder = tmp_path_factory.mktemp("documents")
    for name, produce in PRODUCERS.items():
        produce(folder / name)
    return {name: folder / name for name in PRODUCERS}


@pytest.fixture
async def reading(world: World, pool: ParserPool) -> World:
    """A world with documents: `{"source": <path>, "source_type": "local"}` is any file of this machine."""

    @asynccontextmanager
    async def open_source(tenant_id: UUID, source: Source) -> AsyncIterator[OpenSource]:
        assert isinstance(source, LocalSource)
        yield OpenSource(Path(source.path), Path(source.path).name)

    return replace(world, services=replace(world.services, parser=pool, open_source=open_source))
