"""A Redis for the peers that need one, as durable as the Postgres of the others: each write is on the disk before its answer."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import meter
from benchmarks.environments import Missing

START_SECONDS = 20.0
# https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
DURABLE = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]


class Redis:
    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.cpu = meter.of_tree(process.pid)

    def fresh(self, name: str) -> str:
        """Everything in it is gone; answers with its URL. It has one database for all."""
        if _said(self._port, "FLUSHALL") != "+OK":
            raise RuntimeError("Redis does not forget")
        return self.url

    @property
    def version(self) -> str:
        lines = _said(self._port, "INFO server", whole=True).splitlines()
        return next(line.split(":")[1] for line in lines if line.startswith("redis_version"))


@contextmanager
def running() -> Iterator[Redis]:
    """`redis-server` of this machine, on a free port and in a folder that is gone afterwards. Raises Missing."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("needs redis-server, as the system's packages have it")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *DURABLE]
        with (Path(folder) / "log").open("wb") as log, subprocess.Popen(command, stdout=log) as process:
            try:
                _until_there(port)
                yield Redis(process, port)
            finally:
                process.terminate()


def _until_there(port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            if _said(port, "PING") == "+PONG":
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise Missing("redis-server does not start")
        time.sleep(0.05)


def _said(port: int, command: str, *, whole: bool = False) -> str:
    with socket.create_connection(("127.0.0.1", port), START_SECONDS) as connection:
        connection.sendall(f"{command}\r\n".encode())
        file = connection.makefile("rb")
        line = file.readline().decode().strip()
        return file.read(int(line[1:])).decode() if whole else line


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
