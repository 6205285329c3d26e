"""The HTTP session against real servers that misbehave."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import time
import tracemalloc

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fakes.receiver import Receiver, bomb, drip, endless, hang, huge_header, raw, reset, status
from gristmill.net.addresses import LookupFailed
from gristmill.net.session import USER_AGENT, CallFailed, HttpSession

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def http():
    async with HttpSession(allow_private=True) as session:
        yield session


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


def post(http, url, body=b"{}", *, timeout_seconds=10, max_bytes=1024, **options):
    return http.request(
        "POST", url, body=body, timeout_seconds=timeout_seconds, max_bytes=max_bytes, **options
    )


async def failure(http, url, **options):
    with pytest.raises(CallFailed) as caught:
        await post(http, url, **options)
    return caught.value.kind


class NameServer:
    """Answers what it is told to, one answer after the other; the last stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, host):
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ipaddress.ip_address(address) for address in answer]


# --- the exchange -------------------------------------------------------------------------------------------


async def test_an_exchange_carries_method_headers_and_bytes_both_ways(http, receiver):
    receiver.behave(status(201, b"done", X_Answer="yes"))
    response = await http.request(
        "PUT",
        receiver.url + "?a=%2Fb",
        headers={"X-Asked": "1"},
        body=b"\x00\xff",
        timeout_seconds=5,
        max_bytes=4,
    )
    assert (response.status, response.body, response.headers["x-answer"]) == (201, b"done", "yes")
    [request] = receiver.received
    assert (request.method, request.path, request.body) == ("PUT", "/hook?a=%2Fb", b"\x00\xff")
    assert (request.headers["x-asked"], request.headers["user-agent"]) == ("1", USER_AGENT)


async def test_a_connection_is_used_again(http, receiver):
    for _ in range(5):
        await post(http, receiver.url)
    assert receiver.accepted == 1


async def test_cookies_of_one_receiver_reach_nobody(receiver):
    receiver.behave(status(200, Set_Cookie="session=1; Path=/"))
    async with HttpSession(allow_private=True, lookup=NameServer(["127.0.0.1"])) as http:
        for _ in range(2):
            await post(http, f"http://cookies.example:{receiver.port}/")
    assert "cookie" not in receiver.received[1].headers


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch, receiver):
    async with Receiver() as proxy, HttpSession(allow_private=True) as http:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await post(http, receiver.url)
        async with http.guarded_httpx_client({}, 5) as client:
            await client.post(receiver.url)
    assert (len(receiver.received), proxy.accepted) == (2, 0)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_is_not_followed(http, receiver, code):
    async with Receiver() as elsewhere:
        receiver.behave(status(code, Location=elsewhere.url))
        assert (await post(http, receiver.url)).status == code
        async with http.guarded_httpx_client({}, 5) as client:
            assert (await client.post(receiver.url)).status_code == code
        assert elsewhere.accepted == 0


async def test_hundreds_of_calls_run_at_once(http, receiver):
    responses = await asyncio.gather(*(post(http, receiver.url) for _ in range(300)))
    assert {response.status for response in responses} == {200}


# --- limits -------------------------------------------------------------------------------------------------


async def test_an_answer_of_the_limit_is_whole_and_one_byte_more_is_too_large(http, receiver):
    receiver.behave(status(200, b"x" * 1024), status(200, b"x" * 1025))
    assert len((await post(http, receiver.url)).body) == 1024
    assert await failure(http, receiver.url) == "too_large"


async def test_a_gigabyte_is_not_read(http, receiver):
    sent = []
    receiver.behave(endless(sent=sent))
    assert await failure(http, receiver.url) == "too_large"
    assert sum(sent) < 32 << 20  # what the kernel's buffers take


async def test_a_compressed_bomb_is_counted_as_it_unfolds(http, receiver):
    receiver.behave(bomb())
    tracemalloc.start()
    assert await failure(http, receiver.url, max_bytes=64 << 10) == "too_large"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "behaviour", [hang(), drip(), drip(headers_too=True)], ids=["silent", "body", "headers"]
)
async def test_one_deadline_covers_the_whole_exchange_however_it_is_drawn_out(http, receiver, behaviour):
    receiver.behave(behaviour)
    began = time.monotonic()
    assert await failure(http, receiver.url, timeout_seconds=0.3) == "timeout"
    assert 0.29 < time.monotonic() - began < 2


async def test_a_server_that_never_takes_the_connection_is_a_timeout(http):
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:  # the kernel answers, nobody else does
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        assert await failure(http, url, timeout_seconds=0.3) == "timeout"


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (reset(), "reset"),
        (huge_header(), "reset"),
        (raw(b""), "reset"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), "reset"),
        (raw(CHUNKED + b"zz\r\n"), "reset"),
        (raw(CHUNKED + b"1\r\na\r\n", later=b"zz\r\n"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain"), "reset"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"), "reset"),
    ],
    ids=[
        "reset",
        "huge header",
        "closed",
        "no http",
        "short body",
        "bad chunk",
        "bad chunk later",
        "bad gzip",
        "many headers",
    ],
)
async def test_a_broken_answer_is_one_clear_failure(http, receiver, behaviour, kind):
    receiver.behave(behaviour)
    assert await failure(http, receiver.url) == kind


async def test_a_port_where_nobody_listens_is_refused(http):
    async with Receiver() as gone:
        url = gone.url
    assert await failure(http, url) == "refused"


async def test_a_name_that_does_not_exist_has_no_address(http):
    assert await failure(http, "http://nobody.invalid/") == "dns"


@pytest.mark.parametrize(
    "behaviour", [endless(202), drip(202), raw(b"HTTP/1.1 202 OK\r\nContent-Length: 9\r\n\r\nx")]
)
async def test_a_partial_answer_counts_once_its_headers_have_come(http, receiver, behaviour):
    receiver.behave(behaviour)
    response = await post(http, receiver.url, timeout_seconds=0.5, partial=True)
    assert response.status == 202
    assert len(response.body) <= 1024


async def test_without_headers_there_is_no_partial_answer(http, receiver):
    receiver.behave(drip(headers_too=True))
    assert await failure(http, receiver.url, timeout_seconds=0.2, partial=True) == "timeout"


# --- the guard ----------------------------------------------------------------------------------------------


def guarded(receiver, *answers):
    """A session that allows the receiver's port and nothing private."""
    return HttpSession(allow_private=False, ports=frozenset({receiver.port}), lookup=NameServer(*answers))


PUBLIC = "192.0.1.1"  # by the policy; nobody answers there from where tests run


@pytest.mark.parametrize(
    "url", ["http://public.example/", "https://public.example:22/", "https://u:p@public.example/"]
)
async def test_scheme_port_and_credentials_are_checked_before_anything_is_looked_up(url):
    server = NameServer([PUBLIC])
    async with HttpSession(allow_private=False, lookup=server) as http:
        assert await failure(http, url) == "address_refused"
        async with http.guarded_httpx_client({}, 5) as client:
            with pytest.raises(httpx2.ConnectError, match="connection failed"):
                await client.get(url)
    assert server.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_a_private_literal_is_refused_without_a_connection(receiver, host):
    async with guarded(receiver, [PUBLIC]) as http:
        assert await failure(http, f"https://{host}:{receiver.port}/") == "address_refused"
        with pytest.raises(httpx2.ConnectError, match="connection failed"):
            async with http.guarded_httpx_client({}, 5) as client:
                await client.get(f"https://{host}:{receiver.port}/")
    assert receiver.accepted == 0


async def test_a_literal_that_passed_the_first_check_is_stopped_at_the_socket(receiver, monkeypatch):
    monkeypatch.setattr("gristmill.net.session.check_url", lambda *_, **__: None)
    async with guarded(receiver, [PUBLIC]) as http:
        assert await failure(http, receiver.url) == "address_refused"
    assert receiver.accepted == 0


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], [PUBLIC, "127.0.0.1"], ["::1"], ["::ffff:127.0.0.1", PUBLIC]]
)
async def test_a_name_with_a_private_answer_is_refused_without_a_connection(receiver, answer):
    async with guarded(receiver, answer) as http:
        url = f"https://rebind.example:{receiver.port}/"
        assert await failure(http, url) == "address_refused"
        with pytest.raises(httpx2.ConnectError, match="connection failed"):
            async with http.guarded_httpx_client({}, 5) as client:
                await client.get(url)
    assert receiver.accepted == 0


async def test_a_name_that_moves_to_a_private_address_after_its_check_is_never_reached(receiver):
    """Each connect looks up once and connects to what it checked: there is no moment in which to move."""
    async with guarded(receiver, [PUBLIC], ["127.0.0.1"]) as http:
        url = f"https://rebind.example:{receiver.port}/"
        first = await failure(http, url, timeout_seconds=0.3)
        assert first in {"timeout", "refused"}
        assert http._lookup.asked == ["rebind.example"]
    async with guarded(receiver, [PUBLIC], ["127.0.0.1"]) as http:
        async with http.guarded_httpx_client({}, 0.3) as client:
            for _ in range(2):
                with pytest.raises((httpx2.ConnectError, httpx2.ConnectTimeout)):
                    await client.get(url)
        assert http._lookup.asked == ["rebind.example"] * 2
    assert receiver.accepted == 0


async def test_blocked_refused_unknown_and_timed_out_show_the_same_word(receiver):
    shown = set()
    async with HttpSession(allow_private=True) as open_, guarded(receiver, ["10.0.0.1"]) as closed:
        receiver.behave(hang())
        async with Receiver() as gone:
            nobody = gone.url
        for http, url in [
            (closed, f"https://inside.example:{receiver.port}/"),
            (closed, f"https://127.0.0.1:{receiver.port}/"),
            (open_, nobody),
            (open_, "http://nobody.invalid/"),
            (open_, receiver.url),
        ]:
            with pytest.raises(CallFailed) as caught:
                await post(http, url, timeout_seconds=0.3)
            shown.add(caught.value.shown)
    assert shown == {"unreachable"}


async def test_many_callers_of_one_bad_name_are_all_told(receiver):
    async def lookup(host):
        await asyncio.sleep(0)
        raise LookupFailed("gone")

    async with HttpSession(allow_private=True, lookup=lookup) as http:
        kinds = await asyncio.gather(*(failure(http, "http://gone.example/") for _ in range(20)))
    assert set(kinds) == {"dns"}


# --- TLS ----------------------------------------------------------------------------------------------------


def certificate(tmp_path, name):
    """A self-signed certificate for this name: the server's context, and one that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / f"{name}.pem"
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


async def test_the_connection_goes_to_the_checked_address_and_tls_asks_for_the_name(tmp_path):
    server, trusting = certificate(tmp_path, "public.example")
    asked = []
    server.sni_callback = lambda _, name, __: asked.append(name)
    async with (
        Receiver(tls=server) as receiver,
        HttpSession(allow_private=True, tls=trusting, lookup=NameServer(["127.0.0.1"])) as http,
    ):
        url = f"https://public.example:{receiver.port}/hook"
        assert (await post(http, url)).status == 200
        async with http.guarded_httpx_client({"X-Own": "1"}, 5) as client:
            assert (await client.post(url)).status_code == 200
        assert receiver.received[1].headers["x-own"] == "1"
        assert await failure(http, f"https://other.example:{receiver.port}/hook") == "tls"
    assert asked == ["public.example", "public.example", "other.example"]


async def test_a_certificate_nobody_vouches_for_is_refused(tmp_path):
    server, _ = certificate(tmp_path, "public.example")
    async with (
        Receiver(tls=server) as receiver,
        HttpSession(allow_private=True, lookup=NameServer(["127.0.0.1"])) as http,
    ):
        assert await failure(http, f"https://public.example:{receiver.port}/hook") == "tls"
    assert receiver.received == []
