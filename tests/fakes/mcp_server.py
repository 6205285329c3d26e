"""An MCP server for tests: a real process, streamable HTTP, a few tools. Prints its URL.

with McpProcess("--token", "secret") as server: ... server.url, server.calls()
"""

import argparse
import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_FILE = Path(__file__)


class McpProcess:
    """The server as a process of its own. Arguments: see `python mcp_server.py --help`."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, str(_FILE), *arguments]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self.url = self._line()
        return self

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="numbers")
    parser.add_argument("--token", help="refuse requests without this bearer token")
    parser.add_argument("--json", action="store_true", help="answer with JSON instead of an event stream")
    parser.add_argument("--stateless", action="store_true")
    parser.add_argument("--tools", type=int, default=0, help="so many tools more")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    import uvicorn
    from starlette.responses import PlainTextResponse

    app = _server(options).streamable_http_app(json_response=options.json, stateless_http=options.stateless)

    async def guarded(scope, receive, send):  # type: ignore[no-untyped-def]
        given = dict(scope.get("headers", [])).get(b"authorization")
        if options.token and scope["type"] == "http" and given != f"Bearer {options.token}".encode():
            await PlainTextResponse("no", 401)(scope, receive, send)
        else:
            await app(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(guarded, log_level="critical", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listener])


def _server(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from mcp.server.mcpserver import MCPServer

    server = MCPServer(options.name, log_level="CRITICAL")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Adds two numbers."""
        return f"{a} + {b} = {a + b}"

    @server.tool()
    def fail(why: str) -> str:
        """Always fails."""
        raise ValueError(why)

    @server.tool()
    async def sleep(seconds: float) -> str:
        """Takes its time."""
        await asyncio.sleep(seconds)
        return "slept"

    @server.tool()
    def repeat(text: str, times: int) -> str:
        """A text many times over."""
        return text * times

    @server.tool(name="tools.odd.name")
    def odd() -> dict[str, str]:
        """Has a name that no model may use."""
        return {"odd": server.name}

    @server.tool()
    def quit() -> str:  # noqa: A001
        """Ends the server in the middle of the call."""
        import os

        os._exit(1)

    for number in range(options.tools):
        server.add_tool(lambda number=number: str(number), name=f"more_{number}", description="x" * 100)
    return server


if __name__ == "__main__":
    main()
