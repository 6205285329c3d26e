"""A PgBouncer in front of the tests' Postgres: few connections behind it, each lent for one transaction.

Found on the PATH, where Debian puts it, or by GRISTMILL_TEST_PGBOUNCER.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from gristmill.db import connect_options
from gristmill.embedded.account import account_for

_START_SECONDS = 20.0
_PORT = 6432  # of a socket in a folder of its own
_VERSION = re.compile(r"PgBouncer (\d+)\.(\d+)")


@dataclass(frozen=True)
class Pooler:
    version: tuple[int, int]
    folder: Path
    log: Path

    @property
    def keeps_statements(self) -> bool:
        return self.version >= (1, 21)

    def url_of(self, database: str) -> str:
        return f"postgresql://anybody@/{database}?host={quote(str(self.folder))}&port={_PORT}"


def program() -> str:
    """Skips the test where there is none."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    found = os.environ.get("GRISTMILL_TEST_PGBOUNCER") or shutil.which("pgbouncer", path=places)
    if found is None:
        pytest.skip("no PgBouncer on this machine (apt-get install pgbouncer)")
    return found


@contextmanager
def pooling(server_url: str, connections: int, **settings: object) -> Iterator[Pooler]:
    """For all databases of that server, with so many connections to each. `settings` are PgBouncer's own."""
    command = program()
    parent = Path(
        tempfile.mkdtemp(prefix="gristmill-pool-", dir="/tmp")
    )  # a short path: a socket's may have 107 bytes
    account = account_for(parent / "none")
    account.own(parent, 0o700)
    said = account.run(command, "--version").stdout.decode()
    numbers = _VERSION.search(said)
    assert numbers, said
    pooler = Pooler((int(numbers[1]), int(numbers[2])), parent, parent / "log")
    written = parent / "pgbouncer.ini"
    written.write_text(_written(connect_options(server_url), pooler, connections, settings))
    account.own(written, 0o600)
    with (parent / "log").open("wb") as log:
        process = account.spawn((command, str(written)), stdin=subprocess.DEVNULL, output=log)
        try:
            _wait_for(process, pooler)
            yield pooler
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(parent)


def _written(
    server: Mapping[str, object], pooler: Pooler, connections: int, settings: Mapping[str, object]
) -> str:
    target = {
        "host": server["host"],
        "port": server.get("port", 5432),
        "user": server["user"],
        "password": server.get("password"),
    }
    fields = " ".join(f"{name}='{value}'" for name, value in target.items() if value is not None)
    own = {
        "pool_mode": "transaction",
        "default_pool_size": connections,
        "max_client_conn": 500,
        "auth_type": "any",  # the socket's folder is ours alone
        "listen_port": _PORT,
        "unix_socket_dir": pooler.folder,
        **settings,
    }
    return f"[databases]\n* = {fields}\n[pgbouncer]\n" + "".join(
        f"{name} = {value}\n" for name, value in own.items()
    )


def _wait_for(process: "subprocess.Popen[bytes]", pooler: Pooler) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(f"{pooler.folder}/.s.PGSQL.{_PORT}") == 0:
                return
        assert process.poll() is None, pooler.log.read_text()
        assert time.monotonic() < end, pooler.log.read_text()
        time.sleep(0.01)
