"""The one policy for addresses that a caller names: where we connect to, and where never.

Used in two places, because either alone can be got round: `check_url` when a URL is accepted and again before
each request (a literal address never meets a resolver), and `resolve` at each connect, whose answers are what
is connected to (a name that is checked first and looked up again later may have moved meanwhile).
See docs/decisions/0004-address-guard.md.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Thread
from urllib.parse import SplitResult, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_URL_LENGTH = 2048
PORTS = frozenset({443})
MAX_ANSWERS = 8
LOOKUP_SECONDS = 5.0
MAX_LOOKUPS = 256  # at a time; a thread that waits for a name server costs next to nothing

Address = IPv4Address | IPv6Address
Lookup = Callable[[str], Awaitable[Sequence[Address]]]

# Everything that is not the public internet. Python's `is_global` is no help: it lets many of these through.
_DENIED_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent, in public address space
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Global unicast only: loopback, ULA, link-local, multicast and the NAT64 prefixes lie outside.
_ALLOWED_6 = IPv6Network("2000::/3")
_DENIED_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)

_URL = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")  # RFC 3986's characters and nothing else
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+(%[^\]]+)?\]|[^\[\]:]+)(:[0-9]{1,5})?")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "home.arpa")


class AddressRefused(Exception):
    """Not an address we may call. `reason` is for the caller who named the URL and does not repeat it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LookupFailed(Exception):
    """The name has no address, or no name server answered in time."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`allow_private` opens http, all ports and addresses, for local work; `ports` are open without it."""

    allow_private: bool = False
    ports: frozenset[int] = PORTS


def is_public(address: Address) -> bool:
    """Whether this address is on the public internet; an IPv4 address mapped into IPv6 is judged as IPv4."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address.scope_id is not None or address not in _ALLOWED_6:
        return False
    return not any(address in network for network in _DENIED_6)


def check_url(url: str, *, allow_private: bool, ports: frozenset[int] = PORTS) -> None:
    """Raises AddressRefused unless the URL is well-formed and, as far as shows without a look-up, public."""
    policy = Policy(allow_private, ports)
    parts = _split(url)
    _check_scheme(parts.scheme, policy)
    _check_authority(parts.netloc)
    _check_port(parts, policy)
    _check_host(parts.hostname or "", policy)


async def resolve(host: str, policy: Policy, lookup: Lookup) -> list[Address]:
    """The addresses to connect to, at most 8. One private answer among public ones refuses the name.

    Raises AddressRefused, LookupFailed.
    """
    literal = _literal(host)
    addresses = [literal] if literal is not None else list(dict.fromkeys(await lookup(host)))
    if not addresses:
        raise LookupFailed("the name has no address")
    for address in addresses:
        check_address(address, policy)
    return addresses[:MAX_ANSWERS]


def check_address(address: Address, policy: Policy) -> None:
    """Raises AddressRefused for an address that the policy does not allow."""
    if not policy.allow_private and not is_public(address):
        raise AddressRefused("the host must have a public address")


class GuardedResolver(AbstractResolver):
    """aiohttp's resolver, with every answer checked. aiohttp connects to what it answers, nothing else."""

    def __init__(self, policy: Policy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await resolve(host, self._policy, self._lookup)
        return [_answer(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Nothing to close: the look-up belongs to the session."""


class SystemLookup:
    """The operating system's name look-up, each on a thread of its own.

    A look-up cannot be cancelled, and a name server that does not answer holds it for half a minute: on the
    event loop's own few threads, a hostile domain would hold up everything else. The threads are daemons, so
    that none of them holds up the end of the process.
    """

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)

    async def __call__(self, host: str) -> list[Address]:
        """All addresses of a name, in the system's order. Raises LookupFailed, at the latest after 5 s."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                await self._slots.acquire()
                return await self._start(host)
        except TimeoutError as error:
            raise LookupFailed("no name server answered in time") from error
        except (OSError, UnicodeError) as error:
            raise LookupFailed("the name has no address") from error

    def _start(self, host: str) -> "asyncio.Future[list[Address]]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Address]] = loop.create_future()

        def settle(found: list[Address] | Exception) -> None:
            self._slots.release()
            if answer.done():  # nobody waits any more
                return
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def work() -> None:
            found = _look_up(host)
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, found)

        Thread(target=work, name="lookup", daemon=True).start()
        return answer


def _look_up(host: str) -> list[Address] | Exception:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return error
    return [ip_address(answer[4][0]) for answer in answers]


def _answer(host: str, address: Address, port: int) -> ResolveResult:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=flags)


def _split(url: str) -> SplitResult:
    """Splits a URL of RFC 3986's characters only, so that every parser splits it in the same places."""
    if len(url) > MAX_URL_LENGTH:
        raise AddressRefused(f"the URL must not be longer than {MAX_URL_LENGTH} characters")
    if not _URL.fullmatch(url):
        raise AddressRefused("the URL must be ASCII: percent-encode its path, write its host in punycode")
    try:
        return urlsplit(url)
    except ValueError as error:
        raise AddressRefused("the URL is malformed") from error


def _check_authority(netloc: str) -> None:
    if "@" in netloc:
        raise AddressRefused("the URL must not hold a user name or password")
    if not _AUTHORITY.fullmatch(netloc):
        raise AddressRefused("the host or port is malformed")


def _check_scheme(scheme: str, policy: Policy) -> None:
    if scheme == "https" or (scheme == "http" and policy.allow_private):
        return
    raise AddressRefused("the URL must begin with https://")


def _check_port(parts: SplitResult, policy: Policy) -> None:
    default = 443 if parts.scheme == "https" else 80
    try:
        port = default if parts.port is None else parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise AddressRefused("the port must be a number from 1 to 65535")
    if not policy.allow_private and port not in policy.ports:
        raise AddressRefused(f"the port must be {' or '.join(map(str, sorted(policy.ports)))}")


def _check_host(host: str, policy: Policy) -> None:
    literal = _literal(host)
    if literal is not None:
        check_address(literal, policy)
    elif not _is_name(host):
        raise AddressRefused("the host must be a name or a canonical IP address")
    elif not policy.allow_private and _is_local(host):
        raise AddressRefused("the host must have a public address")


def _literal(host: str) -> Address | None:
    """The address, if the host is one. Refuses zone ids and the forms that only `inet_aton` knows (127.1)."""
    if ":" in host:
        try:
            address = IPv6Address(host)
        except ValueError as error:
            raise AddressRefused("the host must be a name or a canonical IP address") from error
        if address.scope_id is not None:
            raise AddressRefused("the host must not have a zone id")
        return address
    if not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return None
    try:
        return IPv4Address(host)
    except ValueError as error:
        raise AddressRefused("the host must be a name or a canonical IP address") from error


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _is_local(host: str) -> bool:
    """Names that no public name server answers for: `localhost`, `redis`, `db.internal`."""
    name = host.removesuffix(".").lower()
    return "." not in name or any(name == local or name.endswith(f".{local}") for local in _LOCAL_NAMES)
