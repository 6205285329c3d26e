"""The official SDK against a real server with a worker: unmodified, with a base URL and a key."""

from collections.abc import AsyncIterator

import pytest
from llama_cloud import AsyncLlamaCloud

from acceptance.conftest import mill, receiver, stranger
from dialects.llamacloud.reader import Reader
from stranger import Mill, Stranger

__all__ = ["mill", "receiver", "stranger"]


@pytest.fixture
async def sdk(mill: Mill, stranger: Stranger) -> AsyncIterator[AsyncLlamaCloud]:
    async with AsyncLlamaCloud(base_url=mill.url, api_key=stranger.key) as client:
        yield client


@pytest.fixture
async def reader(mill: Mill) -> AsyncIterator[Reader]:
    """A model that mends Markdown and extracts."""
    before, mill.llm.script = mill.llm.script, Reader()
    yield mill.llm.script
    mill.llm.script = before
