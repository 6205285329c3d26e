"""The address guard, by table: the deny lists, and the ways round them that have worked elsewhere."""

import asyncio
import ipaddress
import itertools
import socket
import threading

import pytest

from gristmill.net import addresses
from gristmill.net.addresses import (
    AddressRefused,
    GuardedResolver,
    LookupFailed,
    Policy,
    SystemLookup,
    check_url,
    is_public,
    resolve,
)


def words(text):
    return text.split()


# First and last address of each network in the deny list, and what lies just outside where that is public.
PRIVATE_4 = words(
    """
    0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.0.0.1
    127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0
    172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.170 192.0.0.255 192.0.2.0 192.0.2.255 192.88.99.0
    192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255
    203.0.113.0 203.0.113.255 224.0.0.0 224.0.0.251 239.255.255.255 240.0.0.0 255.255.255.254
    255.255.255.255
    """
)
PUBLIC_4 = words(
    """
    1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0
    126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255
    172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0 192.167.255.255
    192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0
    223.255.255.255
    """
)
PRIVATE_6 = words(
    """
    :: ::1 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:0.0.0.0 ::ffff:10.0.0.1 ::ffff:127.0.0.1
    ::ffff:169.254.169.254 ::ffff:192.168.1.1 ::ffff:0:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::7f00:1
    64:ff9b::808:808 64:ff9b:1::a00:1 100::1 1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001::1
    2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1
    2001:db8:ffff::1 2002:: 2002:7f00:1:: 2002:a00:1::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 fc00::1
    fd00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1 fe80::1%eth0 2606:4700::1111%eth0 ff02::1
    ff0e::1 8000::1
    """
)
PUBLIC_6 = words(
    """
    2000::1 2001:200::1 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9::1 2003::1 2606:4700:4700::1111
    2a00:1450:4001::1 3ffe:ffff::1 3fff:1000::1 ::ffff:8.8.8.8
    """
)


@pytest.mark.parametrize("address", PRIVATE_4 + PRIVATE_6)
def test_an_address_outside_the_public_internet_is_refused(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC_4 + PUBLIC_6)
def test_a_public_address_is_allowed(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC_4)
def test_an_ipv4_address_is_judged_the_same_when_it_comes_mapped_into_ipv6(address):
    assert is_public(ipaddress.ip_address(f"::ffff:{address}"))


BAD_EVERYWHERE = {
    # Forms of 127.0.0.1 and of others that inet_aton and some resolvers understand
    "https://127.1/": "canonical",
    "https://127.0.1/": "canonical",
    "https://2130706433/": "canonical",
    "https://0x7f000001/": "canonical",
    "https://0x7f.1/": "canonical",
    "https://0x7f.0.0.1/": "canonical",
    "https://017700000001/": "canonical",
    "https://0177.0.0.1/": "canonical",
    "https://127.0.0.01/": "canonical",
    "https://127.0.0.1./": "canonical",
    "https://127.0.0.0x1/": "canonical",
    "https://example.0x7f/": "canonical",
    "https://1.2.3.4.5/": "canonical",
    "https://256.1.1.1/": "canonical",
    "https://0x/": "canonical",
    # Userinfo, and what only looks like a host
    "https://user@example.com/": "user name",
    "https://user:password@example.com/": "user name",
    "https://example.com@127.0.0.1/": "user name",
    "https://@example.com/": "user name",
    "https://example.com%40evil.test/": "canonical",
    "https://example.com\\@127.0.0.1/": "ASCII",
    # Zone ids and brackets
    "https://[fe80::1%25eth0]/": "zone id",
    "https://[fe80::1%eth0]/": "zone id",
    "https://[2606:4700::1111%25eth0]/": "zone id",
    "https://[::1/": "malformed",
    "https://[example.com]/": "malformed",
    "https://[v1.x]/": "malformed",
    "https://a[::1]/": "malformed",
    "https://[::1]a/": "malformed",
    "https://[::1]:443:443/": "malformed",
    "https://[1:2]/": "malformed",
    "https://::1/": "malformed",
    # Ports
    "https://example.com:0/": "port",
    "https://example.com:65536/": "port",
    "https://example.com:/": "port",
    "https://example.com:-1/": "port",
    "https://example.com:+443/": "port",
    "https://example.com:443a/": "port",
    # Names
    "https:///path": "malformed",
    "https://": "malformed",
    "https://.example.com/": "canonical",
    "https://example..com/": "canonical",
    "https://example.com../": "canonical",
    "https://-example.com/": "canonical",
    "https://exa%6dple.com/": "canonical",
    "https://" + "a" * 64 + ".com/": "canonical",
    "https://" + ".".join(["a" * 60] * 5) + "/": "canonical",
    # Characters that parsers read differently
    "https://ⓔxample.com/": "ASCII",
    "https://127。0。0。1/": "ASCII",
    "https://①②⑦.⓪.⓪.①/": "ASCII",
    "https://example.com/\r\nHost: evil": "ASCII",
    "https://example.com/\x00": "ASCII",
    " https://example.com/": "ASCII",
    "https://exam ple.com/": "ASCII",
    "https://example.com\t/": "ASCII",
    "": "ASCII",
    "https://example.com/" + "a" * 2048: "longer",
    # Schemes
    "ftp://example.com/": "https",
    "file:///etc/passwd": "https",
    "gopher://example.com/": "https",
    "javascript:alert(1)": "https",
    "//example.com/": "https",
    "example.com": "https",
}


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize(("url", "word"), BAD_EVERYWHERE.items())
def test_a_malformed_url_is_refused_with_a_reason_whatever_is_opened(url, word, allow_private):
    with pytest.raises(AddressRefused) as caught:
        check_url(url, allow_private=allow_private)
    assert word in caught.value.reason


PRIVATE_URLS = {
    "http://example.com/": "https",
    "HTTP://example.com/": "https",
    "https://example.com:80/": "443",
    "https://example.com:8443/": "443",
    "https://example.com:22/": "443",
    "https://127.0.0.1/": "public",
    "https://127.0.0.1:443/": "public",
    "https://169.254.169.254/latest/meta-data/": "public",
    "https://[::1]/": "public",
    "https://[::ffff:127.0.0.1]/": "public",
    "https://[::ffff:7f00:1]/": "public",
    "https://[fd00:ec2::254]/": "public",
    "https://localhost/": "public",
    "https://LOCALHOST./": "public",
    "https://api.localhost/": "public",
    "https://redis/": "public",
    "https://metadata.google.internal/": "public",
    "https://printer.local/": "public",
}


@pytest.mark.parametrize(("url", "word"), PRIVATE_URLS.items())
def test_http_other_ports_and_private_hosts_are_refused_until_they_are_opened(url, word):
    with pytest.raises(AddressRefused) as caught:
        check_url(url, allow_private=False)
    assert word in caught.value.reason
    check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "https://example.com.:443/hook?a=b&c=%20#fragment",
        "HTTPS://EXAMPLE.COM/",
        "https://xn--nxasmq6b.example/",
        "https://a_b.example.com/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]/",
        "https://1e100.net/",
        "https://3.example.com/",
        "https://example.com/" + "a" * 2028,
    ],
)
def test_a_public_https_url_is_allowed(url):
    check_url(url, allow_private=False)


def test_a_port_on_the_list_is_allowed():
    check_url("https://example.com:8443/", allow_private=False, ports=frozenset({443, 8443}))


def test_a_reason_never_repeats_the_url():
    for url in itertools.chain(BAD_EVERYWHERE, PRIVATE_URLS):
        with pytest.raises(AddressRefused) as caught:
            check_url(url, allow_private=False)
        assert len(url) < 10 or url not in str(caught.value)


# --- names --------------------------------------------------------------------------------------------------


def answers(*given):
    """A name server that answers these addresses."""

    async def lookup(host):
        return [ipaddress.ip_address(address) for address in given]

    return lookup


async def test_every_answer_of_a_name_is_given_to_connect_to():
    found = await resolve("example.com", Policy(), answers("8.8.8.8", "2606:4700::1111", "8.8.8.8"))
    assert [str(address) for address in found] == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1"]
)
async def test_one_private_answer_among_public_ones_refuses_the_whole_name(address):
    with pytest.raises(AddressRefused):
        await resolve("example.com", Policy(), answers("8.8.8.8", address, "8.8.4.4"))
    assert await resolve("example.com", Policy(allow_private=True), answers("8.8.8.8", address))


async def test_a_private_answer_beyond_those_that_are_used_still_refuses_the_name():
    many = [f"8.8.8.{last}" for last in range(20)]
    assert len(await resolve("example.com", Policy(), answers(*many))) == addresses.MAX_ANSWERS
    with pytest.raises(AddressRefused):
        await resolve("example.com", Policy(), answers(*many, "127.0.0.1"))


async def test_a_literal_is_checked_without_a_look_up():
    async def never(host):
        raise AssertionError("looked up a literal")

    assert [str(address) for address in await resolve("8.8.8.8", Policy(), never)] == ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        await resolve("127.0.0.1", Policy(), never)
    with pytest.raises(AddressRefused):
        await resolve("::1", Policy(), never)


async def test_a_name_without_an_address_is_no_address():
    with pytest.raises(LookupFailed):
        await resolve("example.com", Policy(), answers())


async def test_the_resolver_gives_aiohttp_literals_of_the_right_family():
    resolver = GuardedResolver(Policy(), answers("8.8.8.8", "2606:4700::1111"))
    found = await resolver.resolve("example.com", 443)
    assert [(entry["host"], entry["port"], entry["family"]) for entry in found] == [
        ("8.8.8.8", 443, socket.AF_INET),
        ("2606:4700::1111", 443, socket.AF_INET6),
    ]
    assert all(entry["flags"] & socket.AI_NUMERICHOST for entry in found)
    await resolver.close()


async def test_the_system_knows_localhost_and_not_a_reserved_name():
    lookup = SystemLookup()
    assert ipaddress.ip_address("127.0.0.1") in await lookup("localhost")
    for name in ("nobody.invalid", "a" * 70 + ".com"):
        with pytest.raises(LookupFailed):
            await lookup(name)


async def test_a_name_server_that_hangs_is_given_up_and_its_thread_is_counted_until_it_ends(monkeypatch):
    loop = asyncio.get_running_loop()
    released, waiting = asyncio.Event(), threading.Event()

    def hang(host, *_, **__):
        waiting.wait(30)
        loop.call_soon_threadsafe(released.set)
        raise socket.gaierror("gone")

    monkeypatch.setattr(addresses.socket, "getaddrinfo", hang)
    monkeypatch.setattr(addresses, "LOOKUP_SECONDS", 0.05)
    monkeypatch.setattr(addresses, "MAX_LOOKUPS", 1)
    lookup = SystemLookup()
    for _ in range(2):  # the first waits for the name server, the second for a thread
        with pytest.raises(LookupFailed, match="in time"):
            await lookup("slow.example")
    waiting.set()
    await released.wait()
    monkeypatch.setattr(addresses, "LOOKUP_SECONDS", 5)
    with pytest.raises(LookupFailed, match="no address"):
        await lookup("slow.example")
