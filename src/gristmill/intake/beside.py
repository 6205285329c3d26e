"""Checks of values with very many parts, in a process beside this one.

The validator lets no other Python code run before it has come to its end: with one input of 1 MiB of small lists, or a
hundred thousand fields that are not known, everybody here would wait for 0.1 s, in whatever thread it runs. The process is
started when it is wanted (about 1 s of its own CPU), works on one value at a time, and ends when it has had nothing to do for a
minute, or when this process has ended, however that came about: its orders come by a pipe, and that is closed then.

It decides nothing by itself: where it is lost or too slow, the caller does the same here.
"""

import asyncio
import atexit
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO, Any

import orjson

from gristmill.domain.errors import Problem

HEAVY_MARKS = (
    30_000  # commas, { and [, those in texts included; takes the validator 6 ms, 40 where each is a problem
)
MOST_SECONDS = 30.0  # for one value: starting takes 1 s, the largest 0.3; the machine may be busy
IDLE_SECONDS = 60.0
MEMORY_BYTES = 1024 * 1024 * 1024  # of the process; the largest value takes some 200 MiB
SIZE_BYTES = 8  # in front of every order and every answer
# The same modules as here, processors of other packages included.
_BOOT = (
    "import sys; sys.path[:] = {path!r}; from gristmill.intake.checking import main; main({idle_seconds!r})"
)


def heavy(text: str | bytes) -> bool:
    """Whether a JSON text may have so many values that its check belongs beside."""
    if len(text) <= HEAVY_MARKS:
        return False
    marks = map(text.count, ",{[") if isinstance(text, str) else map(text.count, (b",", b"{", b"["))
    return sum(marks) > HEAVY_MARKS


class Lost(Exception):
    """The process ended, or did not answer in time."""


class Beside:
    """For threads: to ask waits for the answer, and for those who have asked before."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def problems(self, what: dict[str, Any], text: str | bytes) -> list[Problem] | None:
        """What is wrong with a value, as `checking.answer` finds it; None: it could not be found out there. On an event loop
        nothing is asked: to wait for the answer would be worse than any check."""
        if asyncio._get_running_loop() is not None:
            return None
        raw = text.encode() if isinstance(text, str) else text
        with self._turn:
            for _ in range(2):  # it may have been about to end for want of work
                try:
                    found = orjson.loads(self._ask(orjson.dumps(what), raw))
                except (Lost, OSError):
                    self._end()
                else:
                    return None if found is None else [Problem(*one) for one in found]
        return None

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        with self._turn:
            self._end()

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    def _ask(self, what: bytes, text: bytes) -> bytes:
        """Raises Lost, OSError."""
        process = self._process = self._process or _started(self._idle_seconds)
        assert process.stdin is not None
        assert process.stdout is not None
        ends = time.monotonic() + MOST_SECONDS
        for part in (what, text):
            _write(process.stdin, len(part).to_bytes(SIZE_BYTES, "big") + part, ends)
        size = int.from_bytes(_read(process.stdout, SIZE_BYTES, ends), "big")
        return _read(process.stdout, size, ends)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # closes the pipes, and waits: it has been killed
                pass


def _started(idle_seconds: float) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-P", "-c", _BOOT.format(path=sys.path, idle_seconds=idle_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what a validator complains about may be the input
        bufsize=0,
        start_new_session=True,  # a Ctrl-C in the terminal is for the service
    )
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
    return process


def _write(pipe: IO[bytes], data: bytes, ends: float) -> None:
    left = memoryview(data)
    while left:
        _wait([], [pipe], ends)
        left = left[os.write(pipe.fileno(), left) :]


def _read(pipe: IO[bytes], size: int, ends: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        _wait([pipe], [], ends)
        piece = os.read(pipe.fileno(), size - len(data))
        if not piece:
            raise Lost
        data += piece
    return bytes(data)


def _wait(readable: list[IO[bytes]], writable: list[IO[bytes]], ends: float) -> None:
    """`poll`, as descriptors may have high numbers here."""
    poll = select.poll()
    for pipes, wanted in ((readable, select.POLLIN), (writable, select.POLLOUT)):
        for pipe in pipes:
            poll.register(pipe, wanted)
    if not poll.poll(max(0.0, ends - time.monotonic()) * 1000):
        raise Lost


beside = Beside()
atexit.register(beside.close)
