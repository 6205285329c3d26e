"""A task that is cancelled at the worst moments: inside BEGIN, COMMIT and ROLLBACK, on a slow link and on a dead one.

Its connection comes back fit for use, or is replaced; no transaction stays open, no lock is kept, and nothing is done by half.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from gristmill import db
from gristmill.db import Database
from torture.proxy import PIECE_BYTES, Proxy, _Carried

TIMEOUT_SECONDS = 6.0


class HoldingBack(Proxy):
    """Keeps what the server says to whoever sent the statement that begins with `word`, from then on until `let_go` is set."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.word = b""
        self.swallows = False  # the statement itself, too: the server has not heard it
        self.answered = asyncio.Event()  # the server has done it, and nobody has heard
        self.let_go = asyncio.Event()
        self._held: _Carried | None = None

    async def _forth(self, carried: _Carried, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if self.word and piece[:1] == b"Q" and piece[5:].startswith(self.word):
                self._held, self.word = carried, b""
                if self.swallows:
                    self.answered.set()
                    continue
            await self._pass_on(piece, carried.server)

    async def _back(self, carried: _Carried, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if carried is self._held:
                self.answered.set()
                await self.let_go.wait()
            await self._pass_on(piece, carried.client)


@dataclass(frozen=True)
class Bench:
    proxy: HoldingBack
    database: Database  # through the proxy, with one connection
    observer: "asyncpg.Connection[asyncpg.Record]"

    async def work(self, fails: bool) -> None:
        """Two rows or none, under a lock."""
        async with self.database.transaction() as tx:
            await tx.execute("SELECT pg_advisory_xact_lock(7)")
            for n in range(2):
                await tx.execute("INSERT INTO halves VALUES ($1)", n)
            if fails:
                raise LookupError

    async def cancelled_at(self, word: bytes) -> "asyncio.Task[None]":
        """The work, cancelled when the server has done that and nobody has heard of it."""
        self.proxy.word = word
        task = asyncio.create_task(self.work(fails=word == b"ROLLBACK"))
        await self.proxy.answered.wait()
        task.cancel()
        return task

    async def open_transactions(self) -> int:
        count: int = await self.observer.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND (xact_start IS NOT NULL OR state LIKE '%transaction%')"
        )
        return count

    async def check_nothing_is_left(self) -> None:
        """No lock, no transaction, and a pool as it was: its connection takes the next work."""
        await self.observer.execute("SELECT pg_advisory_lock(7); SELECT pg_advisory_unlock(7)")
        while await self.open_transactions():
            pass
        async with self.database.connection() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT 1") == 1
        assert (self.database.pool.get_size(), self.database.pool.get_idle_size()) == (1, 1)
        await self.work(fails=False)

    async def rows(self) -> int:
        count: int = await self.observer.fetchval("SELECT count(*) FROM halves")
        return count


@pytest.fixture
async def bench(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Bench]:
    monkeypatch.setattr(db, "PING_SECONDS", 0.5)
    observing = Database(own_database_url, timeout_seconds=20)
    observer = await observing.connect()
    await observer.execute("CREATE TABLE halves (n int)")
    async with asyncio.timeout(60), HoldingBack.to_postgres(own_database_url) as proxy:
        url = proxy.postgres_url(own_database_url)
        database = await Database(url, pool_size=1, timeout_seconds=TIMEOUT_SECONDS).open()
        yield Bench(proxy, database, observer)
        await database.close()
    await observer.close()
    await observing.close()
    assert caplog.get_records("call") == []  # the driver complains of transactions that it finds open


@pytest.mark.parametrize("word", [b"BEGIN", b"COMMIT", b"ROLLBACK"])
async def test_whoever_is_cancelled_on_a_slow_link_leaves_a_connection_that_the_next_can_use(
    bench: Bench, word: bytes
) -> None:
    task = await bench.cancelled_at(word)
    bench.proxy.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await bench.rows() == (2 if word == b"COMMIT" else 0)
    await bench.check_nothing_is_left()


@pytest.mark.parametrize("word", [b"BEGIN", b"COMMIT", b"ROLLBACK"])
async def test_whoever_is_cancelled_on_a_dead_link_has_it_replaced_before_a_statement_would_time_out(
    bench: Bench, word: bytes
) -> None:
    """Nothing more is ever heard of it. That it is cancelled must not mean that nobody watches it any more."""
    task = await bench.cancelled_at(word)
    done, _ = await asyncio.wait([task], timeout=TIMEOUT_SECONDS - 1)
    assert [one.cancelled() for one in done] == [True]
    assert await bench.rows() == (2 if word == b"COMMIT" else 0)
    await bench.check_nothing_is_left()


@pytest.mark.parametrize("word", [b"BEGIN", b"COMMIT", b"ROLLBACK"])
async def test_who_is_cancelled_once_more_while_it_is_undone_leaves_nothing_either(
    bench: Bench, word: bytes
) -> None:
    task = await bench.cancelled_at(word)
    await asyncio.wait([task], timeout=0)
    task.cancel()
    bench.proxy.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await bench.rows() == (2 if word == b"COMMIT" else 0)
    await bench.check_nothing_is_left()


async def test_a_commit_that_never_reached_the_server_has_done_nothing(bench: Bench) -> None:
    """As opposed to one that has: the other tests see its rows, both of them."""
    bench.proxy.swallows = True
    task = await bench.cancelled_at(b"COMMIT")
    done, _ = await asyncio.wait([task], timeout=TIMEOUT_SECONDS - 1)
    assert [one.cancelled() for one in done] == [True]
    assert await bench.rows() == 0
    await bench.check_nothing_is_left()


async def test_on_a_dead_link_a_savepoint_costs_no_time_of_its_own(bench: Bench) -> None:
    """What waits for the end of a statement's time has waited long enough: the whole transaction is lost."""
    waited: list[float] = []

    async def within() -> None:
        async with bench.database.transaction() as tx, db.savepoint(tx):
            bench.proxy.word = b"SELECT 1"
            began = asyncio.get_running_loop().time()
            try:
                await tx.execute("SELECT 1")
            finally:
                waited.append(asyncio.get_running_loop().time() - began)

    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await within()
    assert asyncio.get_running_loop().time() - began < waited[0] + TIMEOUT_SECONDS / 2
    await bench.check_nothing_is_left()
