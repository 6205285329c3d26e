"""Gristmill as its users run it: `gristmill serve` and `gristmill worker`, real processes on a database of their own."""

import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from benchmarks import meter
from benchmarks.client import Client
from benchmarks.postgres import Postgres

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Process:
    """One `gristmill …` process. Its log goes to a file that is shown only if it fails."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        *,
        ready: str,
        program: Sequence[str] = ("gristmill",),
    ) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", *program, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.said = self._until(ready)
        self.cpu = meter.of_process(self._process.pid)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _until(self, ready: str) -> str:
        while True:
            try:
                line = self._lines.get(timeout=START_SECONDS)
            except queue.Empty:
                line = ""
            if ready in line:
                return line
            if not line:
                self.stop()
                raise RuntimeError(f"gristmill did not start:\n{self.log_end()}")

    @property
    def process_id(self) -> int:
        return self._process.pid

    def log_end(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]

    def hold(self) -> None:
        """Stops it where it is; `go` lets it go on."""
        self._process.send_signal(signal.SIGSTOP)

    def go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass(frozen=True)
class Service:
    client: Client
    server: Process
    workers: Sequence[Process]  # none: it works in the server's process
    database_url: str
    cpu: dict[str, meter.CpuSeconds]
    url: str
    environment: dict[str, str]  # that its processes run in

    @property
    def worker(self) -> Process | None:
        return self.workers[0] if self.workers else None

    @property
    def key(self) -> str:
        return self.environment["GRISTMILL_API_KEY"]

    def client_of(self, tenant: str) -> Client:
        """Of another tenant, with a key of its own."""
        return Client(self.url, self.command("keys", "create", "bench", "--tenant", tenant).split()[-1])

    def command(self, *words: str) -> str:
        """What `gristmill` with these words says."""
        said = subprocess.run(
            [sys.executable, "-m", "gristmill", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return said.stdout


@contextmanager
def serving(
    postgres: Postgres,
    name: str,
    *,
    lone_worker: bool,
    settings: Mapping[str, str] | None = None,
    workers: int = 1,
    stamps: str | None = None,
) -> Iterator[Service]:
    """`gristmill serve` alone, or `serve --no-worker` with so many `gristmill worker`; with default settings but for `settings`.
    The server writes its stamps into the file `stamps`, if there is to be one (benchmarks/stamped.py).

    The CPU of all workers is `worker`.
    """
    url = postgres.fresh(name)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        key = f"gm_{secrets.token_hex(32)}"
        environment = _environment(url, key, folder) | dict(settings or {})
        server = Process(
            ["serve", "--port", "0", *(["--no-worker"] if lone_worker else [])],
            environment,
            ready="serves on",
            program=("gristmill",) if stamps is None else ("benchmarks.stamped", stamps),
        )
        stack.callback(server.stop)
        started = []
        for _ in range(workers if lone_worker else 0):
            started.append(Process(["worker"], environment, ready="at work"))
            stack.callback(started[-1].stop)
        address = server.said.split("serves on ")[1].split()[0]
        cpu = {"server": server.cpu, "postgres": postgres.cpu}
        if started:
            cpu["worker"] = lambda: sum(one.cpu() for one in started)
        client = stack.enter_context(Client(address, key))
        try:
            yield Service(client, server, started, url, cpu, address, environment)
        except BaseException:
            print("".join(one.log_end() for one in (server, *started)), file=sys.stderr)
            raise


def _environment(url: str, key: str, folder: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GRISTMILL_")}
    return ours | {
        "GRISTMILL_DATABASE_URL": url,
        "GRISTMILL_DATA_DIR": folder,
        "GRISTMILL_API_KEY": key,
        "GRISTMILL_SECRET_KEY": secrets.token_hex(32),
        "PYTHONUNBUFFERED": "1",
    }
