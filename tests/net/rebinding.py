"""Runs in a network of its own, with a name server that gives another answer each time: what is connected to, when names move
from a public address to a private one?

    unshare --net --mount python rebinding.py FOLDER

Prints one JSON object: how many connections each address got, and how many calls each way made.
"""

import asyncio
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx2

from gristmill.net.download import UnexpectedStatus, download
from gristmill.net.session import CallFailed, HttpSession
from gristmill.webhooks.sender import Post, send

PUBLIC = ("93.184.216.34", "8.8.4.4")
PRIVATE = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.7.7")
CALLS = 25  # each way
A, AAAA = 1, 28


class NameServer(asyncio.DatagramProtocol):
    """Answers A with addresses that `answers` chooses, good for 0 seconds; there is no AAAA."""

    def __init__(self, answers: Callable[[], Sequence[str]]) -> None:
        self._answers = answers
        self.asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(0, 12) + 5
        question, kind = data[12:end], struct.unpack("!H", data[end - 4 : end - 2])[0]
        addresses = self._answers() if kind == A else []
        self.asked += kind == A
        head = data[:2] + struct.pack("!5H", 0x8180, 1, len(addresses), 0, 0)
        records = (
            b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 0, 4) + bytes(map(int, one.split(".")))
            for one in addresses
        )
        self._transport.sendto(head + question + b"".join(records), addr)


def moving(chance: random.Random) -> Callable[[], Sequence[str]]:
    """Public at one look, private at the next; or both at once, in either order."""

    def answers() -> Sequence[str]:
        good, bad = chance.choice(PUBLIC), chance.choice(PRIVATE)
        return chance.choice([[good], [bad], [good], [bad], [good, bad], [bad, good]])

    return answers


async def main(folder: Path) -> None:
    for command in (
        ["ip", "link", "set", "lo", "up"],
        *(["ip", "addr", "add", f"{one}/32", "dev", "lo"] for one in (*PUBLIC, *PRIVATE[1:])),
    ):
        subprocess.run(command, check=True)
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    hits: Counter[str] = Counter()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits[writer.get_extra_info("sockname")[0]] += 1
        writer.close()

    names = NameServer(moving(random.Random(1)))
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: names, ("127.0.0.1", 53))
    servers = [await asyncio.start_server(connected, one, 443) for one in (*PUBLIC, *PRIVATE)]
    async with HttpSession(allow_private=False) as http:
        for way in WAYS:
            for number in range(CALLS):
                await way(http, f"https://{way.__name__}-{number}.rebind.example/")
    print(json.dumps({"hits": hits, "asked": names.asked, "calls": CALLS * len(WAYS)}))
    for server in servers:
        server.close()


async def webhook(http: HttpSession, url: str) -> None:
    for _ in range(2):  # as it is tried again
        await send(http, Post("evt_1", "{}", url), 5)


async def document(http: HttpSession, url: str) -> None:
    with suppress(CallFailed, UnexpectedStatus):
        async with download(http, url, timeout_seconds=5, max_bytes=100) as found:
            _ = [piece async for piece in found.pieces()]


async def http_processor(http: HttpSession, url: str) -> None:
    with suppress(CallFailed):
        await http.request("POST", url, body=b"{}", timeout_seconds=5, max_bytes=100)


async def mcp(http: HttpSession, url: str) -> None:
    with suppress(httpx2.HTTPError, OSError):
        async with http.guarded_httpx_client({}, 5) as client:
            await client.post(url, json={})


WAYS: Sequence[Callable[[HttpSession, str], Awaitable[None]]] = (webhook, document, http_processor, mcp)

if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
