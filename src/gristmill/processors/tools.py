"""Tools of an agent's MCP servers, as a model may call them."""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.net.session import HttpSession
from gristmill.processors.mcp_client import CALL_SECONDS, McpServer, NotConnected, connected, mcp_available
from gristmill.processors.refusals import Refused
from gristmill.vault import VaultError

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult, Tool

MAX_TOOLS = 128  # what OpenAI takes in one request
MAX_DEFINITIONS_BYTES = 256 * 1024  # of all tools together: they go along with every call
MAX_RESULT_CHARACTERS = 100_000
_MAX_PAGES = 100
_NAME_CHARACTERS = 64
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tool:
    server: "Client"
    name: str  # as the server knows it


class Tools:
    """What a model may call. `definitions` is for the `tools` of a chat completion; empty without servers."""

    def __init__(self) -> None:
        self.definitions: list[dict[str, Any]] = []
        self._tools: dict[str, _Tool] = {}

    def offer(self, server: str, client: "Client", tool: "Tool") -> None:
        name = self._free_name(server, tool.name)
        self._tools[name] = _Tool(client, tool.name)
        function = {"name": name, "description": tool.description or "", "parameters": tool.input_schema}
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
            async with asyncio.timeout(CALL_SECONDS):
                return _bounded(_text(await tool.server.call_tool(tool.name, given)))
        except TimeoutError:
            return f"Error: no result within {CALL_SECONDS:g} seconds"
        except Exception as error:  # the library's errors are many, and hold what the server said
            log.info("a call to an MCP tool failed: %s", type(error).__name__)
            return "Error: the call failed"


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
    """Connected to all servers for the time of the block. Raises Refused."""
    tools = Tools()
    if servers and not mcp_available():
        message = "The agent has tools, and this worker lacks the extra `mcp`."
        suggestion = "Install gristmill[mcp] on every worker."
        raise Refused(Failure(ItemError(500, "mcp_not_installed", message, suggestion=suggestion)))
    async with AsyncExitStack() as stack:
        for server in servers:
            try:
                client = await stack.enter_async_context(connected(server, http))
                for tool in await _listed(client):
                    tools.offer(server.name, client, tool)
            except (NotConnected, _NoList):
                raise _unavailable(server) from None
        yield _checked(tools)


def _unavailable(server: McpServer) -> Refused:
    message = f"The MCP server {server.name!r} cannot be reached, or does not speak MCP over streamable HTTP."
    suggestion = "Check the agent's mcp_servers: URL and headers."
    return Refused(Retry(ItemError(500, "mcp_unavailable", message, retryable=True, suggestion=suggestion)))


def _checked(tools: Tools) -> Tools:
    count, size = len(tools.definitions), len(orjson.dumps(tools.definitions))
    if count <= MAX_TOOLS and size <= MAX_DEFINITIONS_BYTES:
        return tools
    message = f"The agent's MCP servers offer {count} tools in {size} bytes."
    suggestion = f"At most {MAX_TOOLS} tools in {MAX_DEFINITIONS_BYTES} bytes are possible."
    raise Refused(Failure(ItemError(500, "too_many_tools", message, suggestion=suggestion)))


class _NoList(Exception):
    """The server did not list its tools."""


async def _listed(client: "Client") -> list["Tool"]:
    """All tools of a server, at most one more than a model may have."""
    tools: list[Tool] = []
    cursor: str | None = None
    try:
        async with asyncio.timeout(CALL_SECONDS):
            for _ in range(_MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                cursor = page.next_cursor
                if not cursor or len(tools) > MAX_TOOLS:
                    orjson.dumps([tool.input_schema for tool in tools])  # what cannot be passed on is no list
                    return tools
    except Exception as error:  # the library's errors are many, and quote what the server said
        log.info("listing MCP tools failed: %s", type(error).__name__)
    raise _NoList


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
