"""A TCP proxy that does to connections what networks do: in front of Postgres, or of any other server.

    async with Proxy.to_postgres(url) as proxy:
        fleet = Fleet(proxy.postgres_url(url), …)
        proxy.latency_seconds = 0.05        # each of these holds until it is set back
        proxy.bytes_per_second = 20_000
        proxy.slice_bytes = 3
        proxy.black_hole = True             # nothing passes, nobody is told
        proxy.drop_every = 20               # of the COMMITs: the server commits, the client never hears of it
        proxy.reset_all()
        proxy.freeze_all()                  # those connections pass nothing any more; new ones do

The messages of Postgres are told apart by their lengths (protocol 3.0), so that a COMMIT is one wherever the packets end.
"""

import asyncio
import gc
import random
import socket
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from gristmill.db import connect_options

PIECE_BYTES = 64 * 1024


class Frontend:
    """What a client of Postgres says, cut into messages; counts its COMMITs."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def commits(self, piece: bytes) -> int:
        self._rest += piece
        return sum(text.upper().startswith(b"COMMIT") for text in self._queries())

    def _queries(self) -> Iterator[bytes]:
        """The texts of simple queries."""
        while (message := self._next()) is not None:
            if message[:1] == b"Q":
                yield message[5:]

    def _next(self) -> bytes | None:
        """The first messages have a length only: those that ask for TLS, and the one that names user and database."""
        head = 1 if self._started else 0
        if len(self._rest) < head + 4:
            return None
        length: int = head + struct.unpack_from("!I", self._rest, head)[0]
        if len(self._rest) < length:
            return None
        message, self._rest = self._rest[:length], self._rest[length:]
        if not self._started:
            self._started = struct.unpack_from("!I", message, 4)[0] == 3 << 16
            return b""
        return message


class _Carried:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.frozen = False
        self.deaf = False  # the next that the server says is not passed on, and ends the connection

    def reset(self) -> None:
        """With RST, not FIN, to both sides."""
        for writer in (self.client, self.server):
            found = writer.get_extra_info("socket")
            if found is not None and found.family != socket.AF_UNIX:
                with suppress(OSError):
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self.latency_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.slice_bytes: int | None = None
        self.black_hole = False
        self.drop_every: int | None = None
        self.commits = 0
        self.dropped = 0  # replies to COMMITs
        self._host, self._port = host, port  # a host that is a folder: of a Unix socket of Postgres
        self._carried: set[_Carried] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def to_postgres(cls, url: str) -> Self:
        options = connect_options(url)
        return cls(options["host"], options["port"])

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def postgres_url(self, url: str) -> str:
        """The same database, through this proxy."""
        parts, user = urlsplit(url), urlsplit(url).netloc.rpartition("@")[0]
        return f"postgresql://{user}@127.0.0.1:{self.port}{parts.path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with warnings.catch_warnings():
            # A connect that is broken off at its very end leaves a stream that nobody ever had.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    # --- faults ---

    def heal(self) -> None:
        """All that can be set back."""
        self.latency_seconds, self.bytes_per_second, self.slice_bytes = 0.0, None, None
        self.black_hole, self.drop_every = False, None

    def reset_all(self) -> None:
        for carried in list(self._carried):
            carried.reset()

    def freeze_all(self) -> int:
        """As a router does that forgot them: answers with how many."""
        for carried in self._carried:
            carried.frozen = True
        return len(self._carried)

    # --- carrying ---

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):  # asyncio's streams would log the end of the test
                await self._carry(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, self._port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passable(None)
        from_server, to_server = await self._connect()
        carried = _Carried(writer, to_server)
        self._carried.add(carried)
        ways = [
            asyncio.create_task(self._forth(carried, reader)),
            asyncio.create_task(self._back(carried, from_server)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._carried.discard(carried)
            to_server.transport.abort()  # first: the wait below is broken off when the proxy ends meanwhile
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forth(self, carried: _Carried, reader: asyncio.StreamReader) -> None:
        frontend = Frontend()
        while piece := await reader.read(PIECE_BYTES):
            await self._passable(carried)
            for _ in range(frontend.commits(piece)):
                self.commits += 1
                if self.drop_every and self.commits % self.drop_every == 0:
                    carried.deaf = True
            await self._pass_on(piece, carried.server)

    async def _back(self, carried: _Carried, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await self._passable(carried)
            if carried.deaf:
                self.dropped += 1
                carried.reset()
                return
            await self._pass_on(piece, carried.client)

    async def _passable(self, carried: _Carried | None) -> None:
        while self.black_hole or (carried is not None and carried.frozen):
            await asyncio.sleep(0.05)

    async def _pass_on(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        step = self.slice_bytes or len(piece)
        for at in range(0, len(piece), step):
            part = piece[at : at + step]
            if self.bytes_per_second:
                await asyncio.sleep(len(part) / self.bytes_per_second)
            writer.write(part)
            await writer.drain()
            if self.slice_bytes:
                await asyncio.sleep(0)


def schedule(seed: int, faults: list[str], rounds: int) -> list[str]:
    """So many faults by chance, each at least once if there are rounds enough. Says its seed, to be run again."""
    rng = random.Random(seed)
    drawn = [*faults, *rng.choices(faults, k=max(0, rounds - len(faults)))][:rounds]
    rng.shuffle(drawn)
    print(f"schedule of seed {seed}: {', '.join(drawn)}")
    return drawn
