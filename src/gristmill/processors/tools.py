"""Tools of an agent's MCP servers: streamable HTTP only, every connection through the address guard.

The library comes with the extra `mcp` and is imported when the first agent with tools runs.
"""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import orjson

from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.net.session import HttpSession
from gristmill.processors.refusals import Refused
from gristmill.vault import VaultError

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

MAX_TOOLS = 128  # what OpenAI takes in one request
MAX_RESULT_CHARACTERS = 100_000
_CONNECT_SECONDS = 30.0  # to a server, its list of tools included
_CALL_SECONDS = 60.0
_MAX_PAGES = 100
_NAME_CHARACTERS = 64
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class McpServer:
    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may carry credentials


@dataclass(frozen=True, slots=True)
class _Tool:
    server: "Client"
    name: str  # as the server knows it


class Tools:
    """What a model may call. `definitions` is for the `tools` of a chat completion; empty without servers."""

    def __init__(self) -> None:
        self.definitions: list[dict[str, Any]] = []
        self._tools: dict[str, _Tool] = {}

    def offer(
        self, server: str, client: "Client", name: str, description: str | None, schema: dict[str, Any]
    ) -> None:
        known_as = self._free_name(server, name)
        self._tools[known_as] = _Tool(client, name)
        function = {"name": known_as, "description": description or "", "parameters": schema}
        self.definitions.append({"type": "function", "function": function})

    def _free_name(self, server: str, name: str) -> str:
        """A name a model may use. The second tool of one name gets its server's name before it."""
        plain = _NOT_IN_NAMES.sub("_", name)[:_NAME_CHARACTERS]
        if plain not in self._tools:
            return plain
        prefixed = _NOT_IN_NAMES.sub("_", f"{server}__{name}")[:_NAME_CHARACTERS]
        number = 2
        while prefixed in self._tools:
            prefixed = f"{prefixed[: _NAME_CHARACTERS - 5]}_{number}"
            number += 1
        return prefixed

    async def call(self, name: str, arguments: object) -> str:
        """The result as text. What goes wrong is told to the model, which may find another way."""
        tool = self._tools.get(name)
        if tool is None:
            return f"Error: there is no tool of this name. There are: {', '.join(self._tools)}"
        try:
            given = orjson.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
        except orjson.JSONDecodeError:
            given = None
        if not isinstance(given, dict):
            return "Error: the arguments are not a JSON object"
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                return _bounded(_text(await tool.server.call_tool(tool.name, given)))
        except TimeoutError:
            return f"Error: no result within {_CALL_SECONDS:g} seconds"
        except Exception as error:  # the library's errors are many, and hold what the server said
            log.info("a call to an MCP tool failed: %s", type(error).__name__)
            return "Error: the call failed"


def mcp_available() -> bool:
    """Whether agents may have tools: the extra `mcp` is installed."""
    return find_spec("mcp") is not None


def unseal(sealed: str, bound_to: str, decrypt: Callable[[bytes, str], bytes]) -> bytes:
    """The plaintext of a snapshot's base64 ciphertext. Raises Refused."""
    try:
        return decrypt(base64.b64decode(sealed, validate=True), bound_to)
    except (VaultError, binascii.Error):
        message = "The agent's MCP servers cannot be decrypted."
        suggestion = "Start the worker with the GRISTMILL_SECRET_KEY under which the agent was published."
        raise Refused(Failure(ItemError(500, "secret_unreadable", message, suggestion=suggestion))) from None


@asynccontextmanager
async def open_tools(servers: Sequence[McpServer], http: HttpSession) -> AsyncIterator[Tools]:
    """Connected to all servers for the time of the block. Raises Refused.

    No exception may leave the block but a cancellation: the library's task groups would wrap it.
    """
    tools = Tools()
    if servers and not mcp_available():
        message = "The agent has tools, and this worker lacks the extra `mcp`."
        suggestion = "Install gristmill[mcp] on every worker."
        raise Refused(Failure(ItemError(500, "mcp_not_installed", message, suggestion=suggestion)))
    async with AsyncExitStack() as stack:
        for server in servers:
            await _connect(server, http, tools, stack)
        yield tools


async def _connect(server: McpServer, http: HttpSession, tools: Tools, stack: AsyncExitStack) -> None:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            client = await stack.enter_async_context(_client(server, http))
            await _list(server, client, tools)
    except (
        Exception
    ) as error:  # whatever it is: refused, blocked, timed out and broken look the same to a tenant
        log.info("MCP server %r cannot be used: %s", server.name, type(error).__name__)
        raise _unavailable(server) from None


def _unavailable(server: McpServer) -> Refused:
    message = f"The MCP server {server.name!r} cannot be reached, or does not speak MCP over streamable HTTP."
    suggestion = "Check the agent's mcp_servers: URL and headers."
    return Refused(Retry(ItemError(500, "mcp_unavailable", message, retryable=True, suggestion=suggestion)))


@asynccontextmanager
async def _client(server: McpServer, http: HttpSession) -> AsyncIterator["Client"]:
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with (
        http.guarded_httpx_client(dict(server.headers), _CALL_SECONDS) as transport,
        Client(
            streamable_http_client(server.url, http_client=transport), read_timeout_seconds=_CALL_SECONDS
        ) as client,
    ):
        yield client


async def _list(server: McpServer, client: "Client", tools: Tools) -> None:
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if len(tools.definitions) == MAX_TOOLS:
                log.warning(
                    "MCP server %r offers more tools than the %d a model may have", server.name, MAX_TOOLS
                )
                return
            tools.offer(server.name, client, tool.name, tool.description, tool.input_schema)
        cursor = page.next_cursor
        if not cursor:
            return


def _text(result: "CallToolResult") -> str:
    """All text of the result; what is none is named by its type."""
    pieces = [_piece(block.model_dump(mode="json")) for block in result.content]
    if not pieces and result.structured_content is not None:
        pieces = [orjson.dumps(result.structured_content).decode()]
    text = "\n".join(pieces)
    return f"Error: {text}" if result.is_error else text


def _piece(block: dict[str, Any]) -> str:
    if block["type"] == "text":
        return str(block["text"])
    resource = block.get("resource") or {}
    return str(resource.get("text") or f"[{block['type']} left out]")


def _bounded(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}\n[cut: {len(text)} characters in all]"
