from collections.abc import AsyncIterator

import pytest

from fakes.llm import FakeLLM
from fakes.receiver import Receiver
from fakes.world import KEY, World, open_world


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
