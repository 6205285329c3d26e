"""A process that has the libraries loaded and forks a child for each document: 5 ms instead of 0.9 s of CPU.

Run as a program with (socket's descriptor, limits as JSON, the parent's id). It reads orders from the socket, each with
two descriptors, the document and where the answer goes:
  {"id", "suffix", "engine", "last_page", "seconds"} → a child; {"kill": id} ends it.
It reports {"ready"} or {"missing": module} once, and {"id", "status", "timed_out", "peak_bytes", "seconds"} for each child.
It looks at no document itself. When the socket closes, because we are done or killed, it kills its children and ends.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from gristmill.documents import sandbox
from gristmill.documents.limits import Limits
from gristmill.documents.source import Source

_LIBRARIES = (
    "liteparse._liteparse",
    "liteparse",
    "pypdf",
    "html_to_markdown",
    "python_calamine",
    "charset_normalizer",
    "py3langid",
)
_LAZY = (
    "encodings.idna",
    "encodings.utf_16",
    "encodings.utf_32",
    "encodings.cp1252",
    "encodings.latin_1",
    "charset_normalizer.md",
)


@dataclass(slots=True)
class _Child:
    id: int
    process: int
    started: float
    ends: float
    timed_out: bool = False


class Nursery:
    def __init__(self, orders: socket.socket, limits: Limits) -> None:
        self._orders = orders
        self._limits = limits
        self._children: dict[int, _Child] = {}
        self._unread = b""
        self._descriptors: list[int] = []
        self._woken, wakes = os.pipe()
        for end in (self._woken, wakes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Until the socket closes."""
        while self._take():
            self._reap()
            self._end_overdue()
        for child in self._children.values():
            _kill(child.process)

    def _take(self) -> bool:
        """Waits for an order, the end of a child, or the next deadline; False when nobody is there any more."""
        ends = min((child.ends for child in self._children.values() if not child.timed_out), default=None)
        wait = None if ends is None else max(ends - time.monotonic(), 0)
        orders = self._orders.fileno()
        ready, _, _ = select.select([orders, self._woken], [], [], wait)
        if self._woken in ready:
            os.read(self._woken, 4096)
        return orders not in ready or self._receive()

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._orders, 65536, 64)
        self._descriptors += descriptors
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return bool(data)

    def _obey(self, order: dict[str, Any]) -> None:
        if "kill" in order:
            for child in self._children.values():
                if child.id == order["kill"]:
                    _kill(child.process)
            return
        document, answer = self._descriptors.pop(0), self._descriptors.pop(0)
        try:
            self._fork(order, document, answer)
        finally:
            os.close(document)
            os.close(answer)

    def _fork(self, order: dict[str, Any], document: int, answer: int) -> None:
        now, nursery = time.monotonic(), os.getpid()
        try:
            process = os.fork()
        except OSError:
            self._report(
                {"id": order["id"], "status": None, "timed_out": False, "peak_bytes": 0, "seconds": 0}
            )
            return
        if process == 0:
            _live(order, document, answer, self._limits, nursery)
        self._children[process] = _Child(order["id"], process, now, now + order["seconds"])

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.ends <= now and not child.timed_out:
                child.timed_out = True
                _kill(child.process)

    def _reap(self) -> None:
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            _kill(ended.si_pid)  # before its number is free again: whatever it may have left in its session
            process, status, used = os.wait4(ended.si_pid, 0)
            child = self._children.pop(process)
            self._report(
                {
                    "id": child.id,
                    "status": os.waitstatus_to_exitcode(status),
                    "timed_out": child.timed_out,
                    "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
                    "seconds": round(used.ru_utime + used.ru_stime, 4),
                }
            )

    def _report(self, report: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more; the next turn of the loop sees that
            self._orders.sendall(json.dumps(report).encode() + b"\n")


def _kill(process: int) -> None:
    for end in (os.killpg, os.kill):  # the group does not exist before the child has made it
        try:
            end(process, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _live(order: dict[str, Any], document: int, answer: int, limits: Limits, nursery: int) -> NoReturn:
    """The whole life of a child."""
    status = 1
    try:
        os.setsid()
        sandbox.die_with_parent(nursery)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _keep_only(document, answer)
        sandbox.enter(limits)
        from gristmill.documents import child

        with open(3, "rb", closefd=False) as file:
            source = Source(file, order["suffix"], limits, order["engine"], order["last_page"])
            child.answer(source, 4)
        status = 0
    finally:
        os._exit(status)


def _keep_only(document: int, answer: int) -> None:
    """They become 3 and 4; all else is closed, the sockets of the nursery first of all."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64) for descriptor in (document, answer)]
    os.dup2(high[0], 3)
    os.dup2(high[1], 4)
    os.closerange(5, 4096)


def main() -> None:
    orders = socket.socket(fileno=int(sys.argv[1]))
    sandbox.die_with_parent(int(sys.argv[3]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # a Ctrl-C in the terminal is for the service, which then tells us
    missing = _load()
    orders.sendall(json.dumps({"missing": missing} if missing else {"ready": True}).encode() + b"\n")
    if missing is None:
        Nursery(orders, Limits(**json.loads(sys.argv[2]))).run()


def _load() -> str | None:
    """All that children need, once. The name of what is not there, or None."""
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            return name.partition(".")[0]
    for name in _LAZY:
        importlib.import_module(name)
    from gristmill.documents import child, language

    assert child.READERS
    language.warm()
    gc.collect()
    gc.freeze()  # or the children's collector would copy all pages by writing to them
    return None


if __name__ == "__main__":
    main()
