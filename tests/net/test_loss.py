"""Who reads an answer is told that no more of it comes, whenever the connection was lost."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from fakes.receiver import Receiver, raw, status
from gristmill.net.loss import told_of_loss

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as opened:
        yield opened


async def test_a_loss_before_the_body_is_read_is_told(session: aiohttp.ClientSession) -> None:
    async with Receiver() as server:
        server.behave(raw(CHUNKED, later=b"no size\r\n"))
        async with session.get(server.url) as response:
            assert response.connection is not None
            transport = response.connection.transport
            assert transport is not None
            async with asyncio.timeout(10):
                while not transport.is_closing():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.01)  # in which the protocol is told
            with told_of_loss(response), pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_a_connection_that_serves_many_answers_remembers_none(session: aiohttp.ClientSession) -> None:
    async with Receiver() as server:
        server.behave(status(200, b"x" * 1_000_000))
        heard = []
        for _ in range(3):
            async with session.get(server.url) as response:
                assert response.connection is not None
                assert response.connection.protocol is not None
                closed = response.connection.protocol.closed
                assert closed is not None
                with told_of_loss(response):
                    assert len(await response.read()) == 1_000_000
                heard.append((closed, len(closed._callbacks)))
        assert len({closed for closed, _ in heard}) == 1
        assert [count for _, count in heard] == [1, 1, 1]
