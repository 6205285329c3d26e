"""The service as it is run at scale: API processes, several worker processes, one Postgres, all real."""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx2

from command import Command, wait_for

KEY = "gm_a-key-for-tests-of-the-whole-fleet"
_DECLARED_DEAD = "declared dead; taking a new identity"


@dataclass
class Worker:
    """One `gristmill worker`. The moments are Unix seconds."""

    name: str  # by this Postgres knows its connections
    process: "subprocess.Popen[str]"
    log: Path
    struck_at: list[float] = field(default_factory=list)  # killed or stopped

    @property
    def pid(self) -> int:
        return self.process.pid

    def strike(self, number: signal.Signals) -> None:
        """As the system does it to a process that cannot object: SIGKILL, SIGSTOP."""
        self.process.send_signal(number)
        self.struck_at.append(time.time())

    def times_declared_dead(self) -> int:
        """By the others, while it lived: it was stopped, or this machine gave it no time."""
        return self.log.read_text("utf-8").count(_DECLARED_DEAD)


@dataclass
class Api:
    """One `gristmill serve`, on a port that it keeps when it is started again; without a worker, unless it works, too."""

    number: int
    port: int
    client: httpx2.AsyncClient
    process: "subprocess.Popen[str]"
    worker: Worker | None = None  # the same process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Fleet:
    """`async with` starts the APIs and the workers. `workers` are those at work, `gone` those that have left.

    `source`: a folder with another `gristmill` in it than the one that is installed. `program`: Python's arguments in place
    of `-m gristmill`, for the workers. A setting that is a function is asked for each process, by its name.
    """

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        workers: int = 2,
        apis: int = 1,
        apis_work: bool = False,
        source: Path | None = None,
        program: Sequence[str] = ("-m", "gristmill"),
        **settings: object,
    ) -> None:
        self._folder = folder
        self._counts = (apis, workers)
        self._apis_work = apis_work
        self._database_url = database_url
        self._source = source
        self._program = program
        self._settings = {
            "database_pool_size": 4,
            "data_dir": folder,
            "secret_key": "a secret key for tests, long enough",
            "api_key": KEY,
            "allow_private_addresses": "true",
            "webhook_timeout_seconds": 5,
            "lease_seconds": 3,
            "poll_seconds": 0.2,
            "concurrency": 8,
        } | settings
        self._stack = ExitStack()
        self._numbers = count(1)
        self.apis: list[Api] = []
        self.workers: list[Worker] = []
        self.gone: list[Worker] = []

    @property
    def ever(self) -> list[Worker]:
        return [*self.gone, *self.workers]

    @property
    def client(self) -> httpx2.AsyncClient:
        return self.apis[0].client

    async def __aenter__(self) -> Self:
        apis, workers = self._counts
        try:
            await self._open_api(0)  # which migrates
            await asyncio.gather(
                *(self._open_api(number) for number in range(1, apis)), *(self.hire() for _ in range(workers))
            )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for api in self.apis:
            await api.client.aclose()
        await asyncio.to_thread(self._stack.close)  # kills what is left

    async def _open_api(self, number: int) -> None:
        port = _free_port()
        headers = {"x-api-key": KEY}
        base = f"http://127.0.0.1:{port}"
        client = httpx2.AsyncClient(base_url=base, headers=headers, timeout=60, trust_env=False)
        api = Api(number, port, client, await self._serve(number, port))
        self._works(api)
        self.apis.append(api)

    async def _serve(self, number: int, port: int) -> "subprocess.Popen[str]":
        command = self._command(f"api-{number}")
        alone = () if self._apis_work else ("--no-worker",)
        process = self._stack.enter_context(command.start("serve", *alone, "--port", str(port)))
        await asyncio.to_thread(wait_for, process, "serves on")
        return process

    async def kill_api(self, api: Api) -> None:
        """kill -9, and the same again at the same address."""
        if api.worker is None:
            api.process.send_signal(signal.SIGKILL)
        else:
            api.worker.strike(signal.SIGKILL)
            self._leaves(api.worker)
        await asyncio.to_thread(api.process.wait, 30)
        api.process = await self._serve(api.number, api.port)
        self._works(api)

    def _works(self, api: Api) -> None:
        if self._apis_work:
            log = self._command(f"api-{api.number}").log
            assert log
            api.worker = Worker(f"api-{api.number}", api.process, log)
            self.workers.append(api.worker)

    async def client_of(self, tenant: str) -> httpx2.AsyncClient:
        """Of another tenant, at the first API. To be closed by whoever asks for it."""
        command = self._command(f"key-of-{tenant}")
        made = await asyncio.to_thread(command.run, "keys", "create", "test", "--tenant", tenant)
        headers = {"x-api-key": made.stdout.strip()}
        return httpx2.AsyncClient(base_url=self.apis[0].url, headers=headers, timeout=60, trust_env=False)

    async def hire(self, program: Sequence[str] | None = None) -> Worker:
        """Another worker process, at work."""
        name = f"worker-{next(self._numbers)}"
        command = self._command(name, program or self._program)
        process = self._stack.enter_context(command.start("worker"))
        await asyncio.to_thread(wait_for, process, "at work")
        assert command.log
        worker = Worker(name, process, command.log)
        self.workers.append(worker)
        return worker

    async def kill(self, worker: Worker) -> None:
        """kill -9, and another takes its place, as a supervisor would have it."""
        worker.strike(signal.SIGKILL)
        self._leaves(worker)
        await asyncio.to_thread(worker.process.wait, 30)
        await self.hire()

    async def retire(self, worker: Worker) -> tuple[int, float]:
        """SIGTERM; answers with the exit status and the seconds it took."""
        began = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(worker.process.wait, 60)
        self._leaves(worker)
        return status, time.monotonic() - began

    def _leaves(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.gone.append(worker)

    def _command(self, name: str, program: Sequence[str] = ("-m", "gristmill")) -> Command:
        url = urlsplit(self._database_url)
        named = url._replace(query=f"{url.query}&application_name={name}".lstrip("&")).geturl()
        settings = {"database_url": named} | self._settings
        own = {key: value(name) if callable(value) else value for key, value in settings.items()}
        environment = {f"GRISTMILL_{key.upper()}": str(value) for key, value in own.items()}
        if self._source is not None:
            environment["PYTHONPATH"] = str(self._source)
        return Command(environment, program, log=self._folder / f"{name}.log")

    def logs(self) -> str:
        """What all processes of the service have said on stderr."""
        return "".join(path.read_text("utf-8") for path in sorted(self._folder.glob("*.log")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
