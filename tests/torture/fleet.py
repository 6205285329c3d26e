"""The service as it is run at scale: one API process, several worker processes, one Postgres, all real."""

import asyncio
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx2

from command import Command, Running, wait_for

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


class Fleet:
    """`async with` starts the API and the workers. `workers` are those at work, `gone` those that have left."""

    def __init__(self, database_url: str, folder: Path, *, workers: int = 2, **settings: object) -> None:
        self._folder = folder
        self._count = workers
        self._database_url = database_url
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
        self.workers: list[Worker] = []
        self.gone: list[Worker] = []

    @property
    def ever(self) -> list[Worker]:
        return [*self.gone, *self.workers]

    async def __aenter__(self) -> Self:
        self.api: Running = await asyncio.to_thread(
            self._stack.enter_context, self._command("api").serve("--no-worker")
        )
        headers = {"x-api-key": KEY}
        self.client = httpx2.AsyncClient(base_url=self.api.url, headers=headers, timeout=60, trust_env=False)
        await asyncio.gather(*(self.hire() for _ in range(self._count)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await asyncio.to_thread(self._stack.close)  # kills what is left

    async def hire(self) -> Worker:
        """Another worker process, at work."""
        name = f"worker-{next(self._numbers)}"
        command = self._command(name)
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

    def _command(self, name: str) -> Command:
        url = urlsplit(self._database_url)
        named = url._replace(query=f"{url.query}&application_name={name}".lstrip("&")).geturl()
        settings = {"database_url": named} | self._settings
        environment = {f"GRISTMILL_{key.upper()}": str(value) for key, value in settings.items()}
        return Command(environment, log=self._folder / f"{name}.log")
