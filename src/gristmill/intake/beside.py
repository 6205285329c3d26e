"""Checks of values with very many parts, in a process beside this one.

The validator lets no other Python code run before it has come to its end: with one input of 1 MiB of small lists, or a
hundred thousand fields that are not known, everybody here would wait for 0.1 s, in whatever thread it runs. The process is
started when it is wanted (about 1 s of its own CPU), works on one value at a time, and ends when it has had nothing to do for a
minute, or when this process has ended, however that came about: its orders come by a pipe, and that is closed then.

It decides nothing by itself: where it is lost or too slow, the caller does the same here. What goes wrong in the middle of an
answer ends it: the next who asks must not read the rest.
"""

import asyncio
import atexit
import logging
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO, Any

import orjson

from gristmill.domain.errors import Problem

MOST_SECONDS = 30.0  # for one value: starting takes 1 s, the largest 0.3 to 5; the machine may be busy
IDLE_SECONDS = 60.0
AGAIN_SECONDS = 60.0  # after it did not work, nobody waits for it for so long
MEMORY_BYTES = 1024 * 1024 * 1024  # of the process; 690,000 fields of 10 MB that are not known take 0.9 of it
SIZE_BYTES = 8  # in front of every order and every answer
_SETTINGS = "GRISTMILL_"  # some of which are secret
_ANSWER_BYTES = 1024 * 1024  # 100 problems have half of it at most: anything longer is none
# The same modules as here, processors of other packages included. What they print goes nowhere: answers have a way of their own.
_BOOT = (
    "import os, sys; answers = os.dup(1); os.dup2(os.open(os.devnull, os.O_WRONLY), 1); sys.path[:] = {path!r}; "
    "from gristmill.intake.checking import main; main(answers, {idle_seconds!r})"
)

log = logging.getLogger(__name__)


class Ended(Exception):
    """The process has ended. It may have been about to, for want of work."""


class Lost(Exception):
    """It did not answer in time, or with something that is no answer."""


class Beside:
    """For threads: to ask waits for the answer, and for those who have asked before."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0

    def problems(self, what: dict[str, Any], text: str | bytes) -> list[Problem] | None:
        """What is wrong with a value, as `checking.answer` finds it; None: it could not be found out there. On an event loop
        nothing is asked: to wait for the answer would be worse than any check."""
        if asyncio._get_running_loop() is not None or not self._turn.acquire(timeout=MOST_SECONDS):
            return None
        try:
            if time.monotonic() < self._not_before:
                return None
            return self._found(orjson.dumps(what), text.encode() if isinstance(text, str) else text)
        finally:
            self._turn.release()

    def _found(self, order: bytes, text: bytes) -> list[Problem] | None:
        try:
            try:
                answer = self._ask(order, text)
            except (Ended, BrokenPipeError):
                self._end()
                answer = self._ask(order, text)
            found = orjson.loads(answer)
        except Exception as error:
            self._end()
            self._not_before = time.monotonic() + AGAIN_SECONDS
            log.warning("checks beside do not work", extra={"error": type(error).__name__})
            return None
        except BaseException:
            self._end()
            raise
        return None if found is None else [Problem(*one) for one in found]

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        if (process := self._process) is not None:
            process.kill()
        with self._turn:
            self._end()

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    def _ask(self, what: bytes, text: bytes) -> bytes:
        """Raises Ended, Lost, OSError."""
        process = self._process = self._process or _started(self._idle_seconds)
        assert process.stdin is not None
        assert process.stdout is not None
        ends = time.monotonic() + MOST_SECONDS
        for part in (what, text):
            _write(process.stdin, len(part).to_bytes(SIZE_BYTES, "big") + part, ends)
        size = int.from_bytes(_read(process.stdout, SIZE_BYTES, ends), "big")
        if size > _ANSWER_BYTES:
            raise Lost
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
        env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
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
            raise Ended
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
