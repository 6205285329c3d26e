"""Our end of the nursery: starts it, hands it documents, takes its reports."""

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from gristmill.documents.limits import Limits
from gristmill.documents.refusal import Refused, extra_missing

_START_SECONDS = 60.0  # it takes 1 s; the machine may be busy
_PACKAGE = Path(__file__).parents[2]

# No environment at all: nothing in it is of use to a parser, and much of it is secret. numpy must start no threads:
# a process that forks may have but one.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
_BOOT = "import sys; sys.path[:0] = {path!r}; from gristmill.documents.nursery import main; main()"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """How a child ended. `status`: its exit status, the negative number of a signal, or None if it could not be made."""

    status: int | None
    timed_out: bool
    peak_bytes: int  # of resident memory, with what it shares with the nursery
    seconds: float  # of CPU


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    id: int
    answer: asyncio.StreamReader
    ended: "asyncio.Future[Report]"
    transport: asyncio.ReadTransport


class NurseryLost(Exception):
    """It ended, and all its children with it. None of the documents need be the reason."""


class Keeper:
    def __init__(self, process: "subprocess.Popen[bytes]", orders: socket.socket, limits: Limits) -> None:
        self._process = process
        self._orders = orders
        self._limits = limits
        self._unread = b""
        self._jobs: dict[int, asyncio.Future[Report]] = {}
        self._last = 0
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.alive = True

    @property
    def process_id(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, limits: Limits) -> Self:
        """Raises Refused: `extra_missing`, `parser_unavailable`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            process = _spawn(theirs.fileno(), limits)
        ours.setblocking(False)
        keeper = cls(process, ours, limits)
        asyncio.get_running_loop().add_reader(ours.fileno(), keeper._read)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await keeper._started
        except (NurseryLost, TimeoutError) as error:
            raise Refused("parser_unavailable") from error
        finally:
            if not keeper._started.done() or keeper._started.cancelled() or keeper._started.exception():
                keeper.close()
        return keeper

    async def run(self, document: int, order: dict[str, Any], seconds: float) -> Job:
        """`document`: a descriptor, which stays the caller's. `order`: what else is in its `Source`. Raises NurseryLost."""
        reading, writing = os.pipe()
        try:
            reader = asyncio.StreamReader(limit=self._limits.line_bytes)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
            )
            self._last += 1
            ended: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
            self._jobs[self._last] = ended
            self._send({"id": self._last, "seconds": seconds, **order}, [document, writing])
        finally:
            os.close(writing)
        return Job(self._last, reader, ended, transport)

    def kill(self, job: Job) -> None:
        if not job.ended.done():
            with contextlib.suppress(NurseryLost):
                self._send({"kill": job.id}, [])

    def close(self) -> None:
        """Ends the nursery and what it has running."""
        self._lose()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _send(self, order: dict[str, Any], descriptors: list[int]) -> None:
        if not self.alive:
            raise NurseryLost
        try:
            socket.send_fds(self._orders, [json.dumps(order).encode() + b"\n"], descriptors)
        except OSError as error:
            self._lose()
            raise NurseryLost from error

    def _read(self) -> None:
        try:
            data = self._orders.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        if not data:
            self._lose()

    def _take(self, record: dict[str, Any]) -> None:
        if "id" in record:
            ended = self._jobs.pop(record.pop("id"), None)
            if ended is not None and not ended.done():
                ended.set_result(Report(**record))
        elif not self._started.done():
            if "missing" in record:
                self._started.set_exception(extra_missing(str(record["missing"])))
            else:
                self._started.set_result(None)

    def _lose(self) -> None:
        if not self.alive:
            return
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._orders.fileno())
        self._orders.close()
        waiting: list[asyncio.Future[Any]] = [self._started, *self._jobs.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(NurseryLost())
                future.exception()  # whoever waits for it sees it; whoever has gone need not
        self._jobs.clear()


def _spawn(socket_number: int, limits: Limits) -> "subprocess.Popen[bytes]":
    """A few milliseconds; by the thread of the event loop, whose end would end the nursery (`die_with_parent`)."""
    path = [str(_PACKAGE), *(entry for entry in sys.path if entry)]
    given = [str(socket_number), json.dumps(dataclasses.asdict(limits)), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-I", "-c", _BOOT.format(path=path), *given],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # what a library complains about may be the document
        cwd="/",
        env=_ENVIRONMENT,
        pass_fds=(socket_number,),
        start_new_session=True,
    )
