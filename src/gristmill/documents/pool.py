"""Documents wait here for one of a few children, and come back read or refused."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gristmill.documents.document import Document
from gristmill.documents.keeper import Job, Keeper, NurseryLost, Report
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Engine
from gristmill.documents.wire import Assembler

_TRIES = 3  # with a new nursery each, should it be lost
_GRACE_SECONDS = 10.0  # for the nursery to end a child by itself; after that we end the nursery
_MOST_SUFFIX = 16


def default_children() -> int:
    """All cores but one, which is for the service."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores - 1, 1)


@dataclass(frozen=True, slots=True)
class Usage:
    """What reading one document took."""

    seconds: float  # of CPU, all tries together
    peak_bytes: int  # of the child's resident memory, with about 70 MB that it shares with the nursery
    tries: int


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, by its bytes and not by its name."""

    media_type: str  # image/png, image/jpeg, image/gif or image/webp
    width: int
    height: int


class ParserPool:
    """At most `children` documents are read at a time, each in a process of its own; the others wait in order.

    The nursery they come from is started by the first document: about 1 s of CPU, 70 MB, once. Use as an async context
    manager; leaving it ends what is running.
    """

    def __init__(self, children: int | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._slots = asyncio.Semaphore(children or default_children())
        self._starting = asyncio.Lock()
        self._keeper: Keeper | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._left = True
        async with self._starting:
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None

    @property
    def process_id(self) -> int | None:
        """Of the nursery, the parent of the children, once it was needed."""
        return self._keeper.process_id if self._keeper is not None and self._keeper.alive else None

    async def parse(self, path: Path, filename: str, *, last_page: int | None = None) -> Document:
        """Of `filename` only the suffix counts, and only among kinds of text. Raises Refused, OSError.

        Pages of a PDF behind `last_page` are not read; other kinds come whole.
        """
        document, _ = await self.measure(path, filename, last_page=last_page)
        return document

    async def measure(
        self, path: Path, filename: str, *, last_page: int | None = None
    ) -> tuple[Document, Usage]:
        """As `parse`, with what it took."""
        suffix = Path(filename).suffix.lower()[:_MOST_SUFFIX]
        async with self._turn(path) as descriptor:
            engines: list[Engine] = ["liteparse"]
            if os.pread(descriptor, 1024, 0).find(b"%PDF-") >= 0:
                engines.append("pypdf")
            return await self._read(descriptor, engines, suffix, last_page)

    async def look(self, path: Path) -> Picture:
        """What image this is. Raises Refused, also for one that is not whole; OSError."""
        async with self._turn(path) as descriptor:
            document, _ = await self._read(descriptor, ["image"], "", None)
        try:
            width, height = int(document.metadata["width"]), int(document.metadata["height"])
        except (KeyError, ValueError):
            raise Refused("document_broken") from None  # not what our child would say
        return Picture(document.media_type, width, height)

    @asynccontextmanager
    async def _turn(self, path: Path) -> AsyncIterator[int]:
        """The file's descriptor, once it is its turn."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would hold us up
        try:
            self._check_file(os.fstat(descriptor))
            async with self._slots:
                yield descriptor
        finally:
            os.close(descriptor)

    def _check_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise Refused("unsupported_type", "This is not a file.")
        if status.st_size > self.limits.input_bytes:
            raise Refused("document_too_large")

    async def _read(
        self, descriptor: int, engines: Sequence[Engine], suffix: str, last_page: int | None
    ) -> tuple[Document, Usage]:
        """A PDF that crashed one engine is given to the other, within the time that is left."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.limits.seconds
        reports: list[Report] = []
        for engine in engines:
            order = {"suffix": suffix, "engine": engine, "last_page": last_page}
            try:
                left = max(ends - loop.time(), 0.1)
                document, report = await self._attempt(descriptor, order, left)
            except Refused as refused:
                # What crashed one and is empty or broken to the other is no harmless document.
                raise (
                    _ended_badly(reports[-1], self.limits) if reports and not refused.retryable else refused
                ) from None
            reports.append(report)
            if document is not None:
                return document, _usage(reports)
            if report.timed_out:
                break
        raise _ended_badly(reports[-1], self.limits)

    async def _attempt(
        self, descriptor: int, order: dict[str, Any], seconds: float
    ) -> tuple[Document | None, Report]:
        for _ in range(_TRIES):
            keeper = await self._nursery()
            try:
                job = await keeper.run(descriptor, order, seconds)
                return await self._follow(keeper, job, seconds)
            except NurseryLost:
                continue
        raise Refused("parser_unavailable")

    async def _follow(self, keeper: Keeper, job: Job, seconds: float) -> tuple[Document | None, Report]:
        """None: the child ended before it had answered."""
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                document = await self._answer(job)
                return document, await job.ended
        except TimeoutError:
            keeper.close()
            raise too_complex("Reading it took too long.") from None
        finally:
            keeper.kill(job)
            job.transport.close()

    async def _answer(self, job: Job) -> Document | None:
        """Raises Refused. Every line is a few milliseconds' work at most."""
        assembler = Assembler()
        size = 0
        try:
            while line := await job.answer.readline():
                size += len(line)
                if size > 2 * self.limits.answer_bytes:
                    raise too_complex("Its text is longer than allowed.")
                if not line.endswith(b"\n"):
                    return None
                assembler.feed(line)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None  # not what our child would say
        return assembler.document

    async def _nursery(self) -> Keeper:
        async with self._starting:
            if self._left:
                raise Refused("parser_unavailable")
            if self._keeper is None or not self._keeper.alive:
                if self._keeper is not None:
                    self._keeper.close()
                self._keeper = await Keeper.start(self.limits)
            return self._keeper


def _usage(reports: list[Report]) -> Usage:
    return Usage(
        sum(report.seconds for report in reports), max(report.peak_bytes for report in reports), len(reports)
    )


def _ended_badly(report: Report, limits: Limits) -> Refused:
    if report.timed_out:
        return too_complex(f"Reading it took more than {limits.seconds:g} seconds.")
    if report.status is None:
        return Refused("parser_unavailable")
    return too_complex("The process that read it ended before it was done.")
