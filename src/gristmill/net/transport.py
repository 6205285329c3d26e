"""The address guard for libraries that bring httpx2: it sits where httpcore2 opens its connections."""

import ssl
from collections.abc import Iterable, Mapping

import httpcore2
import httpx2

from gristmill.net.addresses import AddressRefused, Lookup, LookupFailed, Policy, check_url, resolve


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Looks a name up once, checks every answer, connects to those literals. TLS still asks for the name."""

    def __init__(self, policy: Policy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("no address")
        for address in await self._addresses(host):
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str) -> list[str]:
        try:
            return [str(address) for address in await resolve(host, self._policy, self._lookup)]
        except (AddressRefused, LookupFailed) as error:
            raise httpcore2.ConnectError("connection failed") from error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("connection failed")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's own transport over a guarded pool. It takes no backend, so its pool is replaced."""

    def __init__(self, policy: Policy, lookup: Lookup, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._policy = policy
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, max_connections=None, network_backend=GuardedBackend(policy, lookup)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Each request is checked by itself: a server may send a client on to another URL."""
        try:
            check_url(str(request.url), allow_private=self._policy.allow_private, ports=self._policy.ports)
        except AddressRefused as error:
            raise httpx2.ConnectError("connection failed", request=request) from error
        return await super().handle_async_request(request)


def guarded_client(
    policy: Policy, lookup: Lookup, tls: ssl.SSLContext, headers: Mapping[str, str], timeout: float
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=GuardedTransport(policy, lookup, tls),
        headers=dict(headers),
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
    )
