"""Every usual form of a Postgres URL works, none silently asks for less than it says, and none is echoed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import pytest

from gristmill import db
from gristmill.db import LOST, Database, connect_options, unavailable
from torture.proxy import Proxy

BASE = "postgresql://user:secret@db.example:6432/main"


def _with(url: str, scheme: str = "postgresql", **parameters: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme=scheme, query=urlencode(dict(parse_qsl(parts.query)) | parameters)).geturl()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"sslmode": "prefer"},
        {"sslmode": "disable", "channel_binding": "prefer"},
        {"connect_timeout": "5", "application_name": "mine"},
        {"options": "-c statement_timeout=7s -cwork_mem=5MB"},
        {"target_session_attrs": "read-write", "gssencmode": "disable"},
    ],
    ids=lambda parameters: "+".join(parameters) or "plain",
)
async def test_both_ways_connect(database_url: str, scheme: str, parameters: dict[str, str]) -> None:
    database = await Database(_with(database_url, scheme, **parameters)).open()
    async with database.connection() as connection:
        assert await connection.fetchval("SHOW application_name") == parameters.get(
            "application_name", "gristmill"
        )
        if "options" in parameters:
            assert await connection.fetchval("SHOW statement_timeout") == "7s"
            assert await connection.fetchval("SHOW work_mem") == "5MB"
    async with database.engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    await database.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_a_transaction_that_falls_silent_keeps_its_locks_no_longer_than_a_statement_may_take(
    database: Database, database_url: str, durable: bool
) -> None:
    """As of a process that was stopped in the middle, or whose host lost its power."""
    silent = await Database(database_url, timeout_seconds=2).open()
    lock = "SELECT pg_advisory_xact_lock(7)"
    freed: list[bool] = []

    async def fall_silent() -> None:
        async with silent.transaction(durable=durable) as tx:
            await tx.execute(lock)
            async with database.transaction() as other:
                await other.execute(lock)
                freed.append(True)
            await tx.execute("SELECT")

    with pytest.raises(LOST) as lost:
        await fall_silent()
    assert freed
    assert unavailable(lost.value)
    async with silent.transaction() as tx:
        assert await tx.fetchval("SELECT 1") == 1
    await silent.close()


def test_the_parts_of_a_url() -> None:
    options = connect_options(
        "postgresql://a%40b:p%2Fw%3A%23@db.example:6432/ma%20in?connect_timeout=3&search_path=x"
    )
    assert options == {
        "host": "db.example",
        "port": 6432,
        "user": "a@b",
        "password": "p/w:#",
        "database": "ma in",
        "timeout": 3.0,
        "server_settings": {"application_name": "gristmill", "search_path": "x"},
    }


def test_a_socket_folder_is_a_host() -> None:
    options = connect_options("postgresql://user@/main?host=/run/postgresql&port=5433")
    assert (options["host"], options["port"], options["database"]) == ("/run/postgresql", 5433, "main")


@pytest.mark.parametrize(
    ("mode", "checks_certificate", "checks_name"),
    [
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_tls_is_as_strict_as_asked(mode: str, checks_certificate: ssl.VerifyMode, checks_name: bool) -> None:
    context = connect_options(f"{BASE}?sslmode={mode}")["ssl"]
    assert (context.verify_mode, context.check_hostname) == (checks_certificate, checks_name)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:hush@db/main",
        "user:hush@db/main",
        "postgresql://user:hu/sh@db/main",
        "postgresql://user:hush@one:5432,two:5432/main",
        "postgresql://user:hush@db/main?connect_timeout=hush",
        "postgresql://user:hush@db/main?sslmode=hush",
        "postgresql://user:hush@[db/main",
        "postgresql://user:12#hush@db/main",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        Database(url)
    assert "hu" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.fixture
async def plain_server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that refuses TLS and keeps what it was sent."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.write(b"N")
        heard.append(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


async def test_require_never_falls_back_to_plain_text(plain_server: tuple[int, list[bytes]]) -> None:
    port, heard = plain_server
    database = Database(f"postgresql://user:secret@127.0.0.1:{port}/main?sslmode=require")
    with pytest.raises(ConnectionError):
        await database.connect()
    assert b"user" not in b"".join(heard)


async def test_a_transaction_whose_process_says_nothing_is_ended_and_its_locks_are_free(
    database_url: str,
) -> None:
    """As if the process had been stopped, or its host cut off: nobody waits for it for longer than for a statement."""
    silent = await Database(database_url, timeout_seconds=2).open()
    other = await Database(database_url).open()
    freed = asyncio.Event()

    async def say_nothing() -> None:
        async with silent.transaction() as tx:
            await tx.execute("SELECT pg_advisory_xact_lock(4711)")
            async with other.transaction() as waiting:
                await waiting.execute("SELECT pg_advisory_xact_lock(4711)")
            freed.set()
            await tx.execute("SELECT 1")

    with pytest.raises(LOST):
        await say_nothing()
    assert freed.is_set()
    async with silent.transaction() as tx:
        assert await tx.fetchval("SELECT 1") == 1
    await silent.close()
    await other.close()


async def test_a_transaction_that_lasts_too_long_is_ended_although_its_process_speaks(
    database_url: str,
) -> None:
    database = await Database(database_url, timeout_seconds=5.0).open()
    async with database.connection() as connection:
        if connection.get_server_version().major < 17:
            pytest.skip("Postgres ends long transactions from version 17 on")

    async def speak_on() -> None:
        async with database.transaction(longest_seconds=0.3) as tx:
            while True:
                await tx.execute("SELECT 1")

    async with asyncio.timeout(30):
        with pytest.raises(LOST):
            await speak_on()
    await database.close()


async def test_of_many_dead_links_only_the_first_costs_its_time(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says that they are dead: not to the pool of the engine, and not to that of SQLAlchemy."""
    monkeypatch.setattr(db, "PING_SECONDS", 0.5)
    async with Proxy.to_postgres(own_database_url) as proxy:
        url = proxy.postgres_url(own_database_url)
        database = await Database(url, timeout_seconds=2).open()
        for way in ("pool", "engine"):
            await all_at_once(database)
            assert proxy.freeze_all() > 8
            failed = 0
            for _ in range(8):
                try:
                    await (pooled(database) if way == "pool" else through_sqlalchemy(database))
                except TimeoutError:
                    failed += 1
            await all_at_once(database)
            assert failed == (1 if way == "pool" else 0)
        await database.close()


async def all_at_once(database: Database) -> None:
    """Four of each, so that so many are open."""
    ways = [pooled(database) for _ in range(4)] + [through_sqlalchemy(database) for _ in range(5)]
    await asyncio.gather(*ways)


async def pooled(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_sleep(0.05)")


async def through_sqlalchemy(database: Database) -> None:
    async with database.engine.connect() as connection:
        await connection.exec_driver_sql("SELECT pg_sleep(0.05)")


async def test_a_statement_that_is_only_slow_costs_no_connection(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does the driver complain of a transaction that nobody has ended."""
    slow = await Database(database_url, pool_size=2, timeout_seconds=2).open()
    async with slow.connection() as connection:
        before = await connection.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(TimeoutError):
        async with slow.transaction() as tx:
            await tx.execute("SELECT pg_sleep(60)")
    async with slow.connection() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == before
    await slow.close()
    assert caplog.records == []


async def test_a_transaction_is_begun_by_one_message_and_ended_by_another(database: Database) -> None:
    asked: list[str] = []
    async with database.connection() as connection:
        connection.add_query_logger(lambda logged: asked.append(logged.query))
    async with database.transaction(durable=False) as tx:
        assert await tx.fetchval("SHOW synchronous_commit") == "off"
        assert await tx.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
    assert [query.split(";")[0] for query in asked] == [
        "BEGIN",
        "SHOW synchronous_commit",
        "SHOW idle_in_transaction_session_timeout",
        "COMMIT",
    ]


async def test_who_waits_for_a_commit_hears_of_it_before_the_pool_has_the_connection_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of none that has not been."""
    happened: list[str | int] = []
    really = asyncpg.Connection.execute

    async def execute(connection: Any, query: str) -> str:
        said = await really(connection, query)
        happened.append(query.partition(";")[0])
        return said

    monkeypatch.setattr(asyncpg.Connection, "execute", execute)

    def committed() -> None:
        happened.append(database.pool.get_idle_size())

    async with database.connection():
        pass
    idle = database.pool.get_idle_size()
    async with database.transaction(committed=committed) as tx:
        await tx.execute("SELECT")
    assert happened == ["BEGIN", "SELECT", "COMMIT", idle - 1]
    assert database.pool.get_idle_size() == idle
    happened.clear()
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with database.transaction(committed=committed) as tx:
            await tx.execute("SELECT 1/0")
    assert happened == ["BEGIN", "ROLLBACK"]
    happened.clear()
    deferred = "CREATE TEMPORARY TABLE one (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    with pytest.raises(asyncpg.UniqueViolationError):  # from the COMMIT
        async with database.transaction(committed=committed) as tx:
            await tx.execute(f"{deferred}; INSERT INTO one VALUES (1), (1)")
    assert happened == ["BEGIN", deferred, "ROLLBACK"]


async def test_what_a_savepoint_has_done_is_undone_and_the_transaction_goes_on(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TEMPORARY TABLE kept (n int) ON COMMIT DROP")
        for n, breaks in ((1, False), (2, True), (3, False)):
            try:
                async with db.savepoint(tx):
                    await tx.execute("INSERT INTO kept VALUES ($1)", n)
                    if breaks:
                        raise LookupError
            except LookupError:
                pass
        assert [row["n"] for row in await tx.fetch("SELECT n FROM kept ORDER BY n")] == [1, 3]
