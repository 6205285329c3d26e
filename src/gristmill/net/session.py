"""The one way out: a pooled HTTP session that calls only where the address guard lets it.

One per process. Environment proxies, redirects, cookies and stored credentials are off: each would carry a
request, or a tenant's state, somewhere that was not checked.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from types import TracebackType
from typing import Literal, Self

import aiohttp
import httpx2
from yarl import URL

from gristmill.net.addresses import (
    PORTS,
    AddressRefused,
    GuardedResolver,
    Lookup,
    LookupFailed,
    Policy,
    SystemLookup,
    check_address,
    check_url,
)
from gristmill.net.loss import told_of_loss
from gristmill.net.transport import guarded_client

Kind = Literal["refused", "timeout", "address_refused", "tls", "too_large", "reset", "dns"]

# What the owner of a URL is told. Nothing reached, nothing answered, nothing allowed: all look the same, so
# that nobody can map a network by the words they get.
_SHOWN: dict[Kind, str] = {
    "refused": "unreachable",
    "timeout": "unreachable",
    "address_refused": "unreachable",
    "dns": "unreachable",
    "tls": "tls",
    "too_large": "too_large",
    "reset": "reset",
}

USER_AGENT = f"Gristmill/{version('gristmill')}"

_NO_PHASE_TIMEOUTS = aiohttp.ClientTimeout()  # all None: `request` sets one deadline over all phases
_CHUNK_BYTES = 64 * 1024


class CallFailed(Exception):
    """No usable answer. `kind` is for us and the log, `shown` for the tenant who named the URL."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind

    @property
    def shown(self) -> str:
        return _SHOWN[self.kind]


@dataclass(frozen=True, slots=True)
class Response:
    """`headers` are looked up without regard to case. `body` is decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpSession:
    """Open it with `async with`, on the loop that uses it. `lookup` and `tls` stand in for the system's."""

    def __init__(
        self,
        *,
        allow_private: bool,
        ports: frozenset[int] = PORTS,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._policy = Policy(allow_private, ports)
        self._tls = tls or ssl.create_default_context()
        self._lookup = lookup or SystemLookup()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._policy, self._lookup),
            socket_factory=self._socket,
            ssl=self._tls,
            limit=0,
            limit_per_host=0,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": USER_AGENT},
            timeout=_NO_PHASE_TIMEOUTS,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_seconds: float,
        max_bytes: int,
        partial: bool = False,
    ) -> Response:
        """One exchange within one deadline, from looking the name up to the last byte of the answer.

        An answer of more than `max_bytes` after decompression is `too_large`. With `partial`, an answer whose
        headers have come is no failure: its body ends where the limit, the deadline or the receiver ends it.
        Redirects are answers like any other. Raises CallFailed.
        """
        answer = _Answer(max_bytes)
        try:
            async with asyncio.timeout(timeout_seconds):
                check_url(url, allow_private=self._policy.allow_private, ports=self._policy.ports)
                async with self._session.request(
                    method,
                    URL(url, encoded=True),  # as the caller wrote it: a signed URL stands no re-quoting
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                ) as response:
                    await answer.read(response)
        except (AddressRefused, LookupFailed, aiohttp.ClientError, OSError) as error:
            if partial and answer.status:
                return answer.response()
            raise CallFailed(kind_of(error)) from error
        if answer.too_large and not partial:
            raise CallFailed("too_large")
        return answer.response()

    def deadline(self, timeout_seconds: float) -> float:
        """For `streamed`: so far from now, on the loop's clock."""
        return asyncio.get_running_loop().time() + timeout_seconds

    @asynccontextmanager
    async def streamed(self, url: str, *, deadline: float) -> AsyncIterator["Stream"]:
        """A GET whose answer is read as it comes, until the deadline. A redirect is an answer like any other.

        The deadline bounds the waits for the other side, not what the block does. Raises CallFailed.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    check_url(url, allow_private=self._policy.allow_private, ports=self._policy.ports)
                    response = await stack.enter_async_context(
                        self._session.get(URL(url, encoded=True), allow_redirects=False)
                    )
            except (AddressRefused, LookupFailed, aiohttp.ClientError, OSError) as error:
                raise CallFailed(kind_of(error)) from error
            stack.callback(response.close)  # what was not read is not waited for
            stack.enter_context(told_of_loss(response))
            yield Stream(response, deadline)

    def guarded_httpx_client(self, headers: Mapping[str, str], timeout: float) -> httpx2.AsyncClient:
        """An httpx2 client behind the same guard, for libraries that bring a protocol of their own (MCP).

        `timeout`: seconds for each phase; the caller sets a deadline over the whole and closes the client.
        """
        return guarded_client(self._policy, self._lookup, self._tls, headers, timeout)

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """aiohttp brings literal addresses here without asking its resolver: one last look."""
        family, kind, protocol, _, address = info
        try:
            check_address(ip_address(address[0]), self._policy)
        except AddressRefused as error:
            raise _RefusedSocket from error
        return socket.socket(family, kind, protocol)


class Stream:
    """An answer on its way. `headers` are looked up without regard to case."""

    def __init__(self, response: aiohttp.ClientResponse, deadline: float) -> None:
        self._response = response
        self._deadline = deadline
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body after decompression, in pieces of at most 64 KiB. Raises CallFailed."""
        while piece := await self._next():
            yield piece

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._response.content.read(_CHUNK_BYTES)
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(kind_of(error)) from error


class _RefusedSocket(OSError):
    """An AddressRefused in the form that aiohttp lets through."""


class _Answer:
    """What has come so far."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._headers: Mapping[str, str] = {}
        self.status = 0
        self.too_large = False

    async def read(self, response: aiohttp.ClientResponse) -> None:
        self.status, self._headers = response.status, response.headers
        with told_of_loss(response):
            while chunk := await response.content.read(_CHUNK_BYTES):
                self._body += chunk
                if len(self._body) > self._max_bytes:
                    self.too_large = True
                    response.close()  # the rest is not read, so the connection is of no further use
                    return

    def response(self) -> Response:
        return Response(self.status, self._headers, bytes(self._body[: self._max_bytes]))


def kind_of(error: Exception) -> Kind:
    """The one word for what aiohttp, the guard or the deadline raised."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    connecting = isinstance(error, aiohttp.ClientConnectorError)
    match getattr(error, "os_error", error):
        case AddressRefused() | _RefusedSocket() | aiohttp.InvalidURL():
            return "address_refused"
        case LookupFailed():
            return "dns"
        case TimeoutError():
            return "timeout"
    return "refused" if connecting else "reset"
