"""A Postgres for the tests: a throw-away server per run, a database per worker from a migrated template.

`GRISTMILL_TEST_DATABASE_URL` names another server instead (15 or newer, a user who may create databases).
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

from databases import Server
from fakes.s3 import Bucket, S3Server, s3_server
from gristmill.db import Database
from gristmill.embedded.postgres import THROWAWAY, EmbeddedPostgres
from gristmill.store import schema
from gristmill.tables import metadata

settings.register_profile("fuzz")  # --hypothesis-profile fuzz: `make fuzz`, see tests/documented.py
settings.register_profile("thorough")  # --hypothesis-profile thorough: see tests/engine/test_state_machine.py
_IN_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 * 1024**3  # containers often have 64 MB there


_SERVER = pytest.StashKey[Server]()
_POSTGRES = pytest.StashKey[EmbeddedPostgres]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "torture", "tests/torture: processes that are killed, stopped and replaced at work"
    )
    group.addoption("--seeds", type=int, default=2, help="runs of each such test, with a seed each")
    group.addoption("--first-seed", type=int, default=1, help="the seed of the first of them")
    group.addoption(
        "--long", action="store_true", help="at the figures of docs/reliability.md: each takes minutes"
    )
    group.addoption("--sdk", action="store_true", help="run tests/sdk, which installs official clients")
    group.addoption("--away-seconds", type=float, default=3.0, help="for so long an endpoint is away")
    group.addoption("--scale", type=float, default=1.0, help="with --long: this part of the figures")
    group.addoption("--minutes", type=float, default=30, help="of `make soak`")
    group.addoption("--kills", type=int, default=1, help="workers killed in each run")
    group = parser.getgroup("fuzz", "tests/fuzz: Schemathesis, from outside")
    group.addoption("--schemathesis", help="the program")
    group.addoption("--fuzz-seconds", type=int, default=1200, help="how long it may go on")


def pytest_configure(config: pytest.Config) -> None:
    """Not in a fixture: under xdist only the controller starts a server, and its workers share it."""
    if handed := getattr(config, "workerinput", {}).get("server"):
        config.stash[_SERVER] = Server(*handed)
    elif not config.option.collectonly:
        url = os.environ.get("GRISTMILL_TEST_DATABASE_URL") or _start_postgres(config)
        server = config.stash[_SERVER] = Server(url, f"gristmill_test_{os.getpid()}")
        asyncio.run(_make_template(server))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:  # type: ignore[no-untyped-def]  # xdist's
    server = node.config.stash[_SERVER]
    node.workerinput["server"] = (server.url, server.template)


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    if postgres := config.stash.get(_POSTGRES, None):
        postgres.stop()
        shutil.rmtree(postgres.folder.parent, ignore_errors=True)
    elif server := config.stash.get(_SERVER, None):
        asyncio.run(server.drop(server.template))


def _start_postgres(config: pytest.Config) -> str:
    roomy = os.access(_IN_MEMORY, os.W_OK) and shutil.disk_usage(_IN_MEMORY).free > _ROOM_BYTES
    postgres = config.stash[_POSTGRES] = EmbeddedPostgres(
        _open_folder(_IN_MEMORY if roomy else None), THROWAWAY
    )
    postgres.start()
    return postgres.url


async def _make_template(server: Server) -> None:
    database = Database(await server.create(server.template))
    await schema.migrate(database)
    await database.close()


def _open_folder(where: Path | None = None) -> Path:
    """A new folder that every user can walk through: as root, Postgres runs as another one."""
    parent = Path(tempfile.mkdtemp(prefix="gristmill-test-", dir=where))
    parent.chmod(0o711)
    return parent / "data"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """For GRISTMILL_DATA_DIR: on a disk, not there yet, and reachable for the user that Postgres runs as."""
    folder = _open_folder()
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    return pytestconfig.stash[_SERVER]


@pytest.fixture(scope="session")
async def database_url(server: Server, worker_id: str) -> AsyncIterator[str]:
    """The database that this worker's tests share, one after the other."""
    name = f"{server.template}_{worker_id}"
    yield await server.create(name, template=server.template)
    await server.drop(name)


@pytest.fixture(scope="session")
async def _shared_database(database_url: str) -> AsyncIterator[Database]:
    database = await Database(database_url).open()
    yield database
    await database.close()


@pytest.fixture
async def database(_shared_database: Database) -> AsyncIterator[Database]:
    """Empty. For tests whose own process is the only one at work in it, without DDL."""
    yield _shared_database
    delete = "".join(f"DELETE FROM {table.name};" for table in metadata.sorted_tables)
    connection = await _shared_database.connect(
        server_settings={"lock_timeout": "5s"}
    )  # a leaked transaction shows
    try:
        await connection.execute(delete)
    finally:
        await connection.close()


@pytest.fixture
async def own_database_url(server: Server) -> AsyncIterator[str]:
    """A migrated database of its own: for several processes, crashes, or DDL."""
    name = f"gristmill_test_{uuid4().hex}"
    yield await server.create(name, template=server.template)
    await server.drop(name)


@pytest.fixture
async def empty_database_url(server: Server) -> AsyncIterator[str]:
    """A database of its own without any table."""
    name = f"gristmill_test_{uuid4().hex}"
    yield await server.create(name)
    await server.drop(name)


@pytest.fixture
def durable_postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own with the settings of the product, to be killed."""
    with EmbeddedPostgres(data_dir / "postgres") as postgres:
        yield postgres


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    """Of a real S3 server, empty."""
    return s3.bucket()
