"""Connections to MCP servers: streamable HTTP only, each request through the address guard, answers bounded.

The library comes with the extra `mcp` and is imported when the first agent with tools runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import httpx2

from gristmill.net.session import HttpSession

if TYPE_CHECKING:
    from mcp import Client

MAX_ANSWER_BYTES = 4 * 1024 * 1024
CALL_SECONDS = 60.0  # for one request
_CONNECT_SECONDS = 20.0  # for all requests that open a session
_CLOSE_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class McpServer:
    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may carry credentials


class NotConnected(Exception):
    """Refused by the guard, not there, too slow, or not speaking MCP: to whoever named the URL it is one."""


def mcp_available() -> bool:
    """Whether agents may have tools: the extra `mcp` is installed."""
    return find_spec("mcp") is not None


@asynccontextmanager
async def connected(server: McpServer, http: HttpSession) -> AsyncIterator["Client"]:
    """A session with the server for the time of the block. Raises NotConnected.

    The library's task groups cancel the task that entered them when a connection breaks, so a task of its own
    does: whoever waits for an answer then gets an error, as they should.
    """
    ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    closing = asyncio.Event()
    owner = asyncio.create_task(_own(server, http, ready, closing))
    try:
        yield await _opened(server, ready)
    finally:
        closing.set()
        try:
            await asyncio.wait({owner}, timeout=_CLOSE_SECONDS)
        finally:
            owner.cancel()


async def _opened(server: McpServer, ready: "asyncio.Future[Client]") -> "Client":
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            return await ready
    except Exception as error:  # the library and httpx2 have many, in groups
        log.info("MCP server %r cannot be used: %s", server.name, _cause(error))
        raise NotConnected from None


async def _own(
    server: McpServer, http: HttpSession, ready: "asyncio.Future[Client]", closing: asyncio.Event
) -> None:
    try:
        async with _client(server, http) as client:
            ready.set_result(client)
            await closing.wait()
    except Exception as error:
        if ready.done():
            log.info("the session with MCP server %r broke: %s", server.name, _cause(error))
        else:
            ready.set_exception(error)


@asynccontextmanager
async def _client(server: McpServer, http: HttpSession) -> AsyncIterator["Client"]:
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    # It logs what servers send; what matters of that is told to the model, or in one line of ours.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    headers = {**server.headers, "Accept-Encoding": "identity"}
    async with http.guarded_httpx_client(headers, CALL_SECONDS) as requests:
        requests.event_hooks = {"response": [_bound]}
        transport = streamable_http_client(server.url, http_client=requests)
        async with Client(transport, read_timeout_seconds=CALL_SECONDS) as client:
            yield client


async def _bound(response: httpx2.Response) -> None:
    """httpx2 would read, and inflate, whatever comes."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("compressed without being asked", request=response.request)
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """Breaks off after MAX_ANSWER_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise httpx2.ReadError("the answer is too large")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _cause(error: BaseException) -> str:
    """The type of the error, of the first one within groups. Its text could quote the server, or a URL."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
