"""Documents from URLs: redirects, limits, names."""

import asyncio
import datetime
import ipaddress
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fakes.receiver import Receiver, bomb, drip, endless, hang, raw, reset, status
from gristmill.net import addresses
from gristmill.net.addresses import Address
from gristmill.net.download import UnexpectedStatus, download
from gristmill.net.session import CallFailed, HttpSession


@pytest.fixture
async def http() -> AsyncIterator[HttpSession]:
    async with HttpSession(allow_private=True) as session:
        yield session


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def fetch(
    http: HttpSession, url: str, *, timeout_seconds: float = 20, max_bytes: int = 1000
) -> tuple[str, bytes]:
    async with download(http, url, timeout_seconds=timeout_seconds, max_bytes=max_bytes) as found:
        return found.filename, b"".join([piece async for piece in found.pieces()])


async def failure(http: HttpSession, url: str, **limits: float) -> str:
    with pytest.raises(CallFailed) as caught:
        await fetch(http, url, **limits)  # type: ignore[arg-type]
    return caught.value.shown


async def test_a_document_comes_with_its_bytes_and_name(http: HttpSession, server: Receiver) -> None:
    server.behave(status(200, b"\x00\xff text"))
    assert await fetch(http, server.url.replace("hook", "a/report%20%C3%BC.pdf?x=1")) == (
        "report ü.pdf",
        b"\x00\xff text",
    )
    [request] = server.received
    assert (request.method, request.path) == ("GET", "/a/report%20%C3%BC.pdf?x=1")


@pytest.mark.parametrize(
    ("disposition", "path", "name"),
    [
        ('attachment; filename="a b.pdf"', "x.txt", "a b.pdf"),
        ("attachment; filename*=UTF-8''%e2%82%ac.pdf", "x.txt", "€.pdf"),
        ('attachment; filename="../../etc/passwd"', "x.txt", "passwd"),
        ('attachment; filename="..\\\\..\\\\boot.ini"', "x.txt", "boot.ini"),
        ('attachment; filename=".."', "x.txt", "x.txt"),
        ("inline", "x.txt", "x.txt"),
        ("inline", "", "document"),
        ("inline", "..%2f..%2fpasswd", "passwd"),
        ("inline", "a%00b%0a.txt", "a_b_.txt"),
        ("inline", "x" * 300 + ".pdf", "x" * 252 + ".pdf"),
    ],
)
async def test_a_name_is_never_a_path(
    http: HttpSession, server: Receiver, disposition: str, path: str, name: str
) -> None:
    server.behave(status(200, b"x", Content_Disposition=disposition))
    assert (await fetch(http, server.url.replace("hook", path)))[0] == name


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_three_redirects_are_followed_and_a_fourth_is_not(
    http: HttpSession, server: Receiver, code: int
) -> None:
    hops = [status(code, Location=f"/{n}") for n in range(3)]
    server.behave(*hops, status(200, b"here"))
    assert await fetch(http, server.url) == ("2", b"here")
    assert [one.path for one in server.received] == ["/hook", "/0", "/1", "/2"]
    server.behave(*hops, status(code, Location="/3"))
    with pytest.raises(UnexpectedStatus) as caught:
        await fetch(http, server.url)
    assert caught.value.status == code
    assert len(server.received) == 8


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://user:password@127.0.0.1/",
        "http://2130706433/",
        "http://[::1%25lo]/",
        "//[broken",
        "http://127.0.0.1:0/",
        "http://exämple.com/",
    ],
)
async def test_a_redirect_to_what_is_no_address_looks_like_one_to_nowhere(
    http: HttpSession, server: Receiver, location: str
) -> None:
    server.behave(status(302, Location=location.encode().decode("latin-1")))
    assert await failure(http, server.url) == "unreachable"
    assert len(server.received) == 1


class NameServer:
    """`public.example` is where we are; everything else has the address it is given."""

    def __init__(self, **others: str) -> None:
        self._others = others

    async def __call__(self, host: str) -> Sequence[Address]:
        return [ipaddress.ip_address(self._others.get(host.partition(".")[0], "127.0.0.1"))]


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.0/8 stands for the public internet; all the rest of the policy is in force."""
    loopback = ipaddress.ip_network("127.0.0.0/8")
    monkeypatch.setattr(addresses, "_DENIED_4", tuple(one for one in addresses._DENIED_4 if one != loopback))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of public.example and inside.example, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "public.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(f"{one}.example") for one in ("public", "inside")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(pem)
    return path


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    "target",
    [
        "https://inside.example:{port}/",
        "https://10.1.2.3:{port}/",
        "https://169.254.169.254:{port}/",
        "http://public.example:{port}/",
        "https://public.example:22/",
    ],
)
async def test_a_public_url_does_not_lead_to_a_private_address(certificate: Path, target: str) -> None:
    """Not by a redirect, whatever it says, nor by a name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with Receiver(tls=context) as server:
        lookup, ports = NameServer(inside="10.0.0.1"), frozenset({server.port})
        async with HttpSession(allow_private=False, ports=ports, tls=trusting, lookup=lookup) as http:
            there = f"https://public.example:{server.port}/"
            server.behave(status(302, Location="/further"), status(200, b"here"))
            assert await fetch(http, there) == ("further", b"here")
            server.behave(status(302, Location=target.format(port=server.port)))
            assert await failure(http, there) == "unreachable"
            assert await failure(http, target.format(port=server.port)) == "unreachable"
        assert len(server.received) == 3


@pytest.mark.parametrize("code", [204, 206, 304, 400, 401, 404, 410, 429, 500, 503])
async def test_only_200_is_the_document(http: HttpSession, server: Receiver, code: int) -> None:
    server.behave(status(code, b"" if code in {204, 304} else b"a page that says sorry"))
    with pytest.raises(UnexpectedStatus) as caught:
        await fetch(http, server.url)
    assert caught.value.status == code


async def test_a_document_of_the_limit_is_whole_and_one_byte_more_is_too_large(
    http: HttpSession, server: Receiver
) -> None:
    server.behave(status(200, b"x" * 1000), status(200, b"x" * 1001))
    assert len((await fetch(http, server.url))[1]) == 1000
    assert await failure(http, server.url) == "too_large"


async def test_what_says_it_is_too_large_is_not_read(http: HttpSession, server: Receiver) -> None:
    sent: list[int] = []
    server.behave(endless(sent=sent))
    assert await failure(http, server.url) == "too_large"
    assert sum(sent) < 32 << 20  # what the kernel's buffers take


async def test_a_compressed_bomb_is_counted_as_it_unfolds(http: HttpSession, server: Receiver) -> None:
    server.behave(bomb())
    tracemalloc.start()
    try:
        assert await failure(http, server.url, max_bytes=64 << 10) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


async def test_one_deadline_lies_over_redirects_and_body(http: HttpSession, server: Receiver) -> None:
    for slow in (hang(), drip(), drip(headers_too=True)):
        server.behave(status(302, Location="/slow"), slow)
        began = time.monotonic()
        assert await failure(http, server.url, timeout_seconds=0.5, max_bytes=2 << 30) == "unreachable"
        assert time.monotonic() - began < 10


async def test_a_connection_that_breaks_in_the_body_is_no_document(
    http: HttpSession, server: Receiver
) -> None:
    server.behave(reset())
    assert await failure(http, server.url) == "reset"
    server.behave(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"))
    assert await failure(http, server.url) == "reset"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    server.behave(raw(chunked, later=b"no size\r\n"))
    assert await failure(http, server.url) == "reset"


async def test_nobody_there_looks_like_nothing_allowed(http: HttpSession) -> None:
    async with Receiver() as gone:
        pass
    assert await failure(http, gone.url) == "unreachable"
    async with HttpSession(allow_private=False) as guarded:
        assert await failure(guarded, "https://127.0.0.1/") == "unreachable"


async def test_whoever_stops_reading_leaves_no_connection_behind(http: HttpSession, server: Receiver) -> None:
    server.behave(endless())
    async with download(http, server.url, timeout_seconds=20, max_bytes=2 << 30) as found:
        await anext(found.pieces())
    async with asyncio.timeout(20):
        while server._connections:
            await asyncio.sleep(0.01)
