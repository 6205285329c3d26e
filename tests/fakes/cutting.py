"""A TCP proxy that cuts a connection at a word: before it arrives, or after, before its answer comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

from gristmill.db import connect_options

When = Literal["before", "after"]


@dataclass
class Cutter:
    """`cut_at(word, when)` arms it for the next time that a client says the word; `cuts` counts."""

    host: str  # a folder: of a Unix socket of Postgres
    port: int
    cuts: int = 0
    _word: bytes = b""
    _when: When = "before"
    _server: asyncio.Server = field(init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def to_postgres(cls, url: str) -> Self:
        options = connect_options(url)
        return cls(options["host"], options["port"])

    def postgres_url(self, url: str) -> str:
        """The same database, through this proxy."""
        parts, user = urlsplit(url), urlsplit(url).netloc.rpartition("@")[0]
        return f"postgresql://{user}@127.0.0.1:{self.own_port}{parts.path}"

    @property
    def own_port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.own_port}"

    def cut_at(self, word: bytes, when: When) -> None:
        self._word, self._when = word, when

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self.host}/.s.PGSQL.{self.port}")
        return await asyncio.open_connection(self.host, self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError):
                await self._carry(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await self._connect()
        said = asyncio.Event()  # the word, on this connection
        back = asyncio.create_task(self._back(from_server, writer, said))
        try:
            while (piece := await reader.read(65536)) and not back.done():
                if self._word and self._word in piece:
                    self._word = b""
                    self.cuts += 1
                    if self._when == "before":
                        return
                    said.set()
                to_server.write(piece)
                await to_server.drain()
        finally:
            try:
                if said.is_set():
                    await back
            finally:
                back.cancel()
                to_server.transport.abort()

    async def _back(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, said: asyncio.Event
    ) -> None:
        while piece := await from_server.read(65536):
            if said.is_set():
                writer.transport.abort()
                return
            writer.write(piece)
            await writer.drain()


@asynccontextmanager
async def cutting(cutter: Cutter) -> AsyncIterator[Cutter]:
    cutter._server = await asyncio.start_server(cutter._serve, "127.0.0.1", 0)
    yield cutter
    cutter._server.close()
    for task in list(cutter._tasks):
        task.cancel()
    await asyncio.gather(*cutter._tasks, return_exceptions=True)
