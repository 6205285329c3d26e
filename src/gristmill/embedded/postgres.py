"""The life of an embedded Postgres: made once, started with its owner, stopped with its owner."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from gristmill.embedded import binaries
from gristmill.embedded.account import account_for
from gristmill.embedded.errors import EmbeddedPostgresError
from gristmill.embedded.lock import Lock
from gristmill.embedded.watchdog import Watchdog

# fsync, full_page_writes and synchronous_commit stay on. Terse: the detail of an error shows values of rows.
DURABLE: Mapping[str, str] = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",
}
# For tests: a crash loses all. Without autovacuum nothing connects to a template while it is being copied.
THROWAWAY: Mapping[str, str] = {
    **DURABLE,
    "max_connections": "500",  # several processes of tests, with several services each
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
}
_USER = "gristmill"
_TCP = (
    sys.platform == "win32"
)  # elsewhere nothing listens on the network, only on a socket in a folder of 0700
_STILL_LEAVING = (
    b"lock file",
    b"pre-existing shared memory",
)  # said while the last server's processes are ending


class EmbeddedPostgres:
    """Owns `folder`: data, password, log. Started by root, only the data belong to the user Postgres runs as:
    root must not write where that user could lay a link. Folders above are never touched. Its calls block."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] = DURABLE, *, start_timeout_seconds: float = 300.0
    ) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self._settings = settings
        self._start_timeout_seconds = (
            start_timeout_seconds  # long: recovery after a crash has to read the log
        )
        self._lock = Lock(self.folder / "lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int:
        if self._process is None:
            raise EmbeddedPostgresError("Postgres has not been started")
        return self._process.pid

    @property
    def url(self) -> str:
        """For the superuser and the database `postgres`. Holds the password."""
        if _TCP:
            return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self._port}/postgres"
        return f"postgresql://{_USER}:{self._password}@/postgres?host={self.socket_folder}&port={self._port}"

    def start(self) -> None:
        """Raises EmbeddedPostgresError if it cannot, or if another process owns the folder."""
        self._take_folder()
        try:
            self._binaries = binaries.find(self._account, self.folder)
            self._password = self._make_password()
            self._make_data()
            self._stop_orphan()
            self._port = _free_port() if _TCP else 5432
            # A short path: a socket's may have 107 bytes.
            self.socket_folder = Path(tempfile.mkdtemp(prefix="gristmill-", dir=None if _TCP else "/tmp"))  # noqa: S108
            self._account.own(self.socket_folder, 0o700)
            self._launch()
            self._publish_url()
        except BaseException:
            self.stop()
            raise

    def revive(self) -> None:
        """Starts it again, at the same URL, after it died by itself."""
        self._end_process()
        self._launch()

    def stop(self) -> None:
        """Rolls open transactions back and leaves a clean data folder. May be called twice."""
        self._end_process()
        (self.folder / "url").unlink(missing_ok=True)
        if hasattr(self, "socket_folder"):
            shutil.rmtree(self.socket_folder, ignore_errors=True)
        self._lock.release()

    # --- the folder ---

    def _take_folder(self) -> None:
        self._account = account_for(self.data)
        try:
            mode = 0o711 if self._account.ids else 0o700
            _make_folder(self.folder, mode)
            self.folder.chmod(mode)
            free = self._lock.take()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"cannot keep a database in {self.folder}: {error.strerror}"
            ) from None
        if not free:
            raise EmbeddedPostgresError(f"{self.folder} is in use by another process")
        if self._account.run("/bin/sh", "-c", 'cd "$1"', "sh", str(self.folder)).returncode:
            self._lock.release()
            raise EmbeddedPostgresError(
                f"Postgres runs as user {self._account.name}, who cannot reach {self.folder}: set "
                "GRISTMILL_DATA_DIR to a folder that user can reach, such as /var/lib/gristmill"
            )

    def _make_password(self) -> str:
        path = self.folder / "password"
        if not path.exists():
            _write_secret(path, secrets.token_hex(24))
        self._account.own(path, 0o600)
        return path.read_text().strip()

    def _make_data(self) -> None:
        version = self.data / "PG_VERSION"
        if not version.exists():
            return self._initialize()
        have, can = version.read_text().strip(), self._run("postgres", "--version").split()[-1].split(".")[0]
        if have != can:
            raise EmbeddedPostgresError(
                f"{self.data} was made by Postgres {have}, and this is Postgres {can}: dump it with the old "
                "version and restore it into a new folder"
            )
        return None

    def _initialize(self) -> None:
        # Under another name until it is complete, so that a killed first start leaves nothing half-made.
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        self._account.own(new, 0o700)
        self._run(
            "initdb", "--pgdata", str(new), "--username", _USER, "--pwfile", str(self.folder / "password"),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin",
            "--builtin-locale", "C.UTF-8", "--no-instructions", *(["--no-sync"] if self._throwaway else []),
        )  # fmt: skip
        new.rename(self.data)

    def _stop_orphan(self) -> None:
        """A server that outlived its owner: killed between starting it and setting the watchdog on it."""
        if self._call("pg_ctl", "status", "--pgdata", str(self.data)).returncode == 0:
            self._call("pg_ctl", "stop", "--pgdata", str(self.data), "--mode", "fast", "--wait")

    def _publish_url(self) -> None:
        """For workers of the same user on the same machine; see `running_url`."""
        path = self.folder / "url"
        path.unlink(missing_ok=True)
        _write_secret(path, self.url)

    # --- the process ---

    @property
    def _throwaway(self) -> bool:
        return self._settings.get("fsync") == "off"

    def _launch(self) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        while (said := self._try_launch(deadline)) is not None:
            if not any(reason in said for reason in _STILL_LEAVING) or time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    "Postgres did not start:\n" + said.decode(errors="replace")[-2000:].strip()
                )
            time.sleep(0.1)

    def _try_launch(self, deadline: float) -> bytes | None:
        """None when it takes connections, else what it said."""
        path = self.folder / "postgres.log"
        with open(path, "ab", opener=_private) as log:
            before = log.tell()
            self._process = self._account.spawn(self._command(), stdin=subprocess.DEVNULL, output=log)
        if not _TCP:
            self._watchdog = Watchdog(self._account, self._process.pid, self.data, self.socket_folder)
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._is_ready():
                return None
            time.sleep(0.01)
        self._end_process()
        return path.read_bytes()[before:]

    def _command(self) -> list[str]:
        options = {
            **self._settings,
            "port": str(self._port),
            "listen_addresses": "127.0.0.1" if _TCP else "",
            "unix_socket_directories": "" if _TCP else str(self.socket_folder),
            "unix_socket_permissions": "0700",
        }
        chosen = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.data), *chosen]

    def _is_ready(self) -> bool:
        """By line 8 of postmaster.pid; one left by a killed server says so too, hence line 1."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self.process_id and lines[7].strip() == "ready"
        return False

    def _end_process(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast: does not wait for clients to leave
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT if sys.platform != "win32" else signal.SIGTERM)
                self._process.wait(10)
        if self._watchdog:
            self._watchdog.dismiss()
            self._watchdog = None

    def _call(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return self._account.run(str(self._binaries / program), *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        done = self._call(program, *arguments)
        if done.returncode:
            raise EmbeddedPostgresError(
                f"{program} failed: {done.stderr.decode(errors='replace').strip()[-1500:]}"
            )
        return done.stdout.decode()


def running_url(folder: Path) -> str | None:
    """The URL of the embedded Postgres that another process keeps running in `folder`, if there is one."""
    try:
        url = (folder / "url").read_text()
        lock = Lock(folder / "lock")
        left_behind = lock.take()
    except OSError:
        return None
    lock.release()
    return None if left_behind else url


def _make_folder(path: Path, mode: int) -> None:
    """With the parents that are missing, in the same mode; those that exist stay as they are."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir()
        folder.chmod(mode)


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
