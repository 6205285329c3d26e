"""The way to Postgres: one pool of plain asyncpg connections for the engine, one SQLAlchemy engine for the rest.

Statements that run for every claim, flush, poll or create use `Database.transaction()` and `Database.connection()`; a read by
primary key costs 43 µs there against 416 µs through SQLAlchemy Core (docs/decisions/0003-two-ways-to-postgres.md).
Everything else is SQLAlchemy Core on `Database.engine`. Both hold no state in the connection, so PgBouncer in
transaction mode works.
"""

import asyncio
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from weakref import WeakValueDictionary

import asyncpg
import orjson
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

Connection = AsyncConnection  # of the engine
if TYPE_CHECKING:
    Transaction = asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Transaction = asyncpg.Connection
    Pool = asyncpg.Pool

# What a caller sees when Postgres is away: in flight, at the next use, at connect, and asyncpg's own confusion; or when
# it has ended a transaction for others' sake.
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.DeadlockDetectedError,
    ConnectionError,
    TimeoutError,
    OSError,
)

PING_SECONDS = 3.0  # for the shortest of statements, beside the work of a busy server
# What statements of the engine take and the driver has to ask Postgres about, on each connection: once, for all of them, and
# not 3 ms for each statement that comes first.
_ARRAYS = "SELECT $1::smallint[], $2::int[], $3::bigint[], $4::float8[], $5::bool[], $6::bytea[], $7::uuid[], $8::timestamptz[]"
_TRANSACTION_TIMEOUT_SINCE = 17  # the version of Postgres


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def unavailable(error: BaseException) -> bool:
    """Whether this says that Postgres is away or can take no more; looks through what SQLAlchemy wraps."""
    return any(isinstance(one, (*LOST, PoolTimeoutError)) for one in _causes(error))


def full(error: BaseException) -> bool:
    """Whether this says that Postgres has no room to write. It goes on reading, and writes again once there is some."""
    return any(isinstance(one, asyncpg.DiskFullError) for one in _causes(error))


def unstorable(error: BaseException) -> bool:
    """Whether this says that a value does not fit Postgres: out of range, too deep, a character it cannot hold."""
    unfit = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
    return any(isinstance(one, unfit) for one in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.orig if isinstance(seen, DBAPIError) else seen.__cause__


class Database:
    """Connections to one Postgres. `open` it once per process, `close` it at the end."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        timeout_seconds: float = 10.0,
        prepared: bool = True,
        listen_url: str | None = None,
    ) -> None:
        self.url = url
        self._listen_options = connect_options(listen_url) if listen_url else None
        self.timeout_seconds = timeout_seconds
        # Postgres ends a transaction whose process says nothing for so long: a process that was stopped, or whose host is
        # gone without a word, must not keep its locks. Set in the transaction, as PgBouncer refuses it at connect.
        self._begin = (
            f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(timeout_seconds)}"
        )
        self._pool_size = pool_size
        self._options = connect_options(url) | {"command_timeout": timeout_seconds}
        if not prepared:
            self._options["statement_cache_size"] = 0
        # By the process of Postgres behind each: asyncpg's pool does not tell which of its connections are idle.
        self._pooled: WeakValueDictionary[int, asyncpg.Connection[asyncpg.Record]] = WeakValueDictionary()
        # By the same, how many have it: for a moment two, one of whom gives it back.
        self._busy: Counter[int] = Counter()
        self.pool: Pool
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self.connect,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=5,
            max_overflow=5,
            pool_timeout=timeout_seconds,
            isolation_level="READ COMMITTED",
            # JSONB gives 1e308 back as an integer of 309 digits; the standard parser would make one of it that no answer holds.
            json_deserializer=orjson.loads,
            hide_parameters=True,  # an error's text would hold what callers sent
        )
        event.listen(self.engine.sync_engine, "connect", _is_fresh)
        event.listen(self.engine.sync_engine, "checkout", self._ping)

    async def open(self) -> "Database":
        self.pool = await asyncpg.create_pool(
            min_size=1,
            max_size=self._pool_size,
            reset=_nothing,
            connect=self._connect_for_pool,
        )
        return self

    async def close(self) -> None:
        await self.engine.dispose()
        if hasattr(self, "pool"):
            self.pool.terminate()

    async def connect(self, **extra: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the caller's own, outside both pools."""
        return await asyncpg.connect(**(self._options | extra))

    async def connect_to_listen(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the caller's own that hears notifications: past a PgBouncer, where `listen_url` says how."""
        return await self.connect(**(self._listen_options or {}))

    async def _connect_for_pool(self, *args: Any, **kwargs: Any) -> "asyncpg.Connection[asyncpg.Record]":
        options = {
            key: value for key, value in kwargs.items() if key in {"loop", "connection_class", "record_class"}
        }
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**(self._options | options))
        try:
            await connection.execute(_ARRAYS, *[None] * _ARRAYS.count("$"))
        except BaseException:  # of whoever waits no longer, too
            connection.terminate()
            raise
        self._pooled[connection.get_server_pid()] = connection
        return connection

    @asynccontextmanager
    async def transaction(
        self,
        *,
        durable: bool = True,
        longest_seconds: float | None = None,
        committed: Callable[[], None] | None = None,
    ) -> AsyncIterator[Transaction]:
        """One transaction, READ COMMITTED: committed at the end of the block, rolled back if it raises. `committed` is called
        as soon as it is, some rounds of the loop before the pool has its connection back.

        Not durable: its commit does not wait for the disk. Only for what may be forgotten if the server crashes: a claim
        vanishes, and its items are handed out again.

        Postgres itself ends a transaction whose process says nothing for `timeout_seconds`: one that was stopped, or
        cut off from the network, would otherwise keep its locks, and with them the items of its leases. From version 17
        on it also ends one that lasts longer than `longest_seconds` (None: six times that): a process that is stopped
        between two messages of one statement is not silent as Postgres sees it.
        """
        async with self.connection() as connection:
            try:
                await self._begun(connection, durable=durable, longest_seconds=longest_seconds)
                yield connection
                await connection.execute("COMMIT")
            except TimeoutError:  # `connection` sees to it
                raise
            except BaseException:
                # A COMMIT that was cancelled may have taken effect or not: then there is nothing to undo.
                await self._doubt(connection)
                raise
            if committed is not None:
                committed()

    async def _begun(self, connection: Transaction, *, durable: bool, longest_seconds: float | None) -> None:
        """In one message: the driver's own transactions take a round trip to begin, and the settings one more."""
        begin = self._begin
        if connection.get_server_version().major >= _TRANSACTION_TIMEOUT_SINCE:
            longest = 6 * self.timeout_seconds if longest_seconds is None else longest_seconds
            begin += f"; SET LOCAL transaction_timeout = {_milliseconds(longest)}"
        await connection.execute(begin if durable else f"{begin}; SET LOCAL synchronous_commit = off")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Transaction]:
        """A connection without a transaction: each statement is one of its own. For reads, and for what one statement can do."""
        pid = 0
        try:
            async with self.pool.acquire(timeout=self.timeout_seconds) as connection:
                pid = connection.get_server_pid()
                self._busy[pid] += 1
                try:
                    yield connection
                except TimeoutError:
                    await self._doubt(connection)
                    raise
        finally:  # not before the pool has it back: who is closed on the way there breaks the pool
            self._busy -= Counter((pid,))  # which keeps nothing of zero or less

    async def _doubt(self, connection: Transaction) -> None:
        """It did not answer in time, or somebody was cancelled. If the link is dead, those of all idle connections may be: one
        after the other would cost its time. A server that is only slow has cancelled the statement by now, as the driver asked
        it to."""
        # A savepoint may have found out already.
        if _is_closed(connection) or not await _undone(connection, "ROLLBACK"):
            self._distrust()

    def _distrust(self) -> None:
        """What is idle in the pool is made anew before its next use; what is in use finds out by itself."""
        for pid, connection in list(self._pooled.items()):
            if self._busy[pid] <= 0 and not _is_closed(connection):
                connection.terminate()

    def _ping(self, connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        """As `pool_pre_ping` does, but a dead link shows soon; and then all others are in doubt, here and in the pool."""
        if record.info.pop("fresh", False):
            return
        try:
            connection.run_async(_answers)
        except Exception as error:
            self._distrust()
            raise InvalidatePoolError("the link to Postgres is dead") from error


@asynccontextmanager
async def savepoint(tx: Transaction) -> AsyncIterator[None]:
    """What the block has done and locked is undone and let go if it raises; the transaction goes on.

    The driver's own would not do: it knows no transaction that it has not begun.
    """
    await tx.execute("SAVEPOINT here")
    try:
        yield
    except BaseException:
        await _undone(tx, "ROLLBACK TO SAVEPOINT here")
        raise
    else:
        await tx.execute("RELEASE SAVEPOINT here")


async def _undone(connection: Transaction, rollback: str) -> bool:
    """False: the server has not said so, however long that took it. Then the connection is closed: nobody may use it as it is,
    and who waits for a link that may be dead waits no longer than for a ping."""
    if _is_closed(connection):
        return True
    try:
        async with asyncio.timeout(PING_SECONDS):
            await connection.execute(rollback)
    except BaseException as error:
        if not _is_closed(connection):
            connection.terminate()
        if not isinstance(error, Exception):  # cancelled once more
            raise
        return False
    return True


def _is_closed(connection: Transaction) -> bool:
    """The pool takes away what the driver has closed, and then says nothing more about it."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


def _is_fresh(_: object, record: ConnectionPoolEntry) -> None:
    record.info["fresh"] = True


async def _answers(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with asyncio.timeout(PING_SECONDS):
        await connection.execute("SELECT")


async def _nothing(connection: Any) -> None:
    """Nothing here leaves state in a connection, so the pool's reset query (50 µs) has nothing to reset."""


_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def connect_options(url: str) -> dict[str, Any]:
    """Keyword arguments for `asyncpg.connect` from any usual form of a Postgres URL.

    `postgres://`, `postgresql://` and `postgresql+asyncpg://` are the same; libpq's `sslmode`, `connect_timeout`,
    `application_name`, `options`, `host` and `channel_binding` are understood; other parameters become server settings.
    Raises ValueError for anything that is no Postgres URL, without repeating any of it: it holds a password.
    """
    try:
        return _options(urlsplit(url))
    except ValueError:
        raise ValueError(
            "the database URL cannot be used: it is postgresql://user:password@host:port/database with one host, in "
            "its parts : / ? # @ are written %3A %2F %3F %23 %40, sslmode is one of "
            f"{', '.join(_SSL_MODES)}, and connect_timeout is a number of seconds"
        ) from None


def _options(parts: SplitResult) -> dict[str, Any]:
    if parts.scheme not in {"postgres", "postgresql", "postgresql+asyncpg"} or parts.fragment:
        raise ValueError
    query = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {
        "host": query.pop("host", None) or parts.hostname or None,
        "port": parts.port or (int(query["port"]) if "port" in query else None),
        "user": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "database": unquote(parts.path.lstrip("/")) or None,
        "timeout": float(query.pop("connect_timeout", 10)),
    }
    query.pop("port", None)
    query.pop("channel_binding", None)  # libpq's own negotiation; the driver does without
    query.pop("target_session_attrs", None)
    if sslmode := query.pop("sslmode", None):
        options["ssl"] = _ssl(sslmode, query)
    for name in ("sslrootcert", "sslcert", "sslkey", "sslpassword", "gssencmode"):
        query.pop(name, None)
    settings = {"application_name": query.pop("application_name", "gristmill")}
    for word in query.pop("options", "").replace("-c ", "-c").split():
        name, _, value = word.removeprefix("-c").partition("=")
        settings[name] = value
    options["server_settings"] = settings | query
    return {key: value for key, value in options.items() if value is not None}


def _ssl(mode: str, query: dict[str, str]) -> ssl.SSLContext | str:
    if mode not in _SSL_MODES:  # a misspelt verify-full must not become less than that
        raise ValueError
    if mode in {"disable", "allow", "prefer"}:
        return mode
    context = ssl.create_default_context(
        cafile=query.get("sslrootcert") if query.get("sslrootcert") != "system" else None
    )
    if query.get("sslcert"):
        context.load_cert_chain(query["sslcert"], query.get("sslkey"), query.get("sslpassword"))
    context.check_hostname = mode == "verify-full"
    if mode == "require" and "sslrootcert" not in query:
        context.verify_mode = ssl.CERT_NONE
    return context


def process_name() -> str:
    """`host:pid`, for rows and logs that name a process."""
    return f"{os.uname().nodename}:{os.getpid()}"
