"""A batch of a million: `.venv/bin/python -m benchmarks.million`, with the goals of docs/performance.md and whether they are met.

In from a file, drained by one worker process, read back; its costs beside those of 10,000, in empty tables, beside millions of
finished rows, and while somebody holds an old snapshot; pages deep in it; others beside it; its cancel. `--items 50000` for a
short try. Asks for 38 GB of disk where TMPDIR is.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import machine, report, seed, work
from benchmarks.client import Client
from benchmarks.meter import Meter
from benchmarks.postgres import Postgres, fetch, running
from benchmarks.probe import probing
from benchmarks.service import Service, serving
from gristmill.db import connect_options

END_SECONDS = 300.0
LOOK_SECONDS = 0.05
# Big batches, each between batches of the small size, one after the other.
BIG_TIMES, SMALL_TIMES = 3, 12
PAGES = 15  # of each kind
PAGE = 1000
B_ITEMS, B_TIMES, B_STARTS = 100, 25, 5
WAITING = 0.2  # seconds of an item that waits
DISK_BYTES_EACH = 2_000  # of an item, its result, their indexes and log; generously


@dataclass
class Told:
    """The rows of the table, printed as they come."""

    rows: list[str] = field(default_factory=list)
    missed: int = 0

    def say(
        self,
        what: str,
        figure: float,
        unit: str,
        goal: float | None = None,
        *,
        digits: int = 0,
        least: bool = False,
    ) -> None:
        verdict, bound = "", ""
        if goal is not None:
            met = figure >= goal if least else figure <= goal
            verdict, bound = "met" if met else "NOT MET", f"{'≥' if least else '≤'} {goal:,g} {unit}"
            self.missed += not met
        self.rows.append(f"| {what} | {figure:,.{digits}f} {unit} | {bound} | {verdict} |")
        print(self.rows[-1], flush=True)


@dataclass
class Mill:
    """A service under measurement. `big` and `small`: sizes of batches; `files`: what was uploaded, by processor and size."""

    service: Service
    told: Told
    folder: Path
    big: int
    small: int
    end: float
    files: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def client(self) -> Client:
        return self.service.client

    def file(self, processor: str, items: int) -> str:
        """The id of an uploaded file with so many lines."""
        if (processor, items) not in self.files:
            path = self.folder / f"{processor}-{items}.jsonl"
            _write(path, processor, items)
            began = time.perf_counter()
            self.files[processor, items] = self.client.upload_from(path)
            if items == self.big:
                size = path.stat().st_size / 1e6
                self.told.say(f"upload of {size:,.0f} MB", time.perf_counter() - began, "s", digits=1)
            path.unlink()
        return self.files[processor, items]

    def create(self, items: int, processor: str = "noop", **more: object) -> str:
        body = {"processor": processor, "source": {"file_id": self.file(processor, items)}, **more}
        return self.client.create(json.dumps(body).encode())

    def until_ingested(self) -> None:
        until = time.monotonic() + END_SECONDS
        while fetch(self.service.database_url, "SELECT count(*) FROM ingest")[0][0]:
            if time.monotonic() > until:
                raise TimeoutError("the file is not read")
            time.sleep(LOOK_SECONDS)

    def write_all(self) -> None:
        """What has changed is on the disk now, and not while something else is measured."""
        fetch(self.service.database_url, "CHECKPOINT")

    def settle(self) -> None:
        """And it is vacuumed, too."""
        fetch(self.service.database_url, "VACUUM")
        self.write_all()

    def until_completed(self, batch_id: str) -> Any:
        found = self.client.ended(batch_id, timeout_seconds=END_SECONDS)
        assert found["status"] == "completed", found
        return found


def main() -> None:
    given = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended
    room = shutil.disk_usage(tempfile.gettempdir()).free
    need = (given.finished + 14 * given.items) * DISK_BYTES_EACH
    if room < need:
        sys.exit(
            f"{tempfile.gettempdir()} has {room / 1e9:.0f} GB, this may take {need / 1e9:.0f}: set TMPDIR, or take fewer --items."
        )
    began = time.monotonic()
    told = Told()
    with running() as postgres, tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        print(
            *machine.described(postgres),
            "",
            "| what | figure | goal | |",
            "| --- | ---: | ---: | --- |",
            sep="\n",
            flush=True,
        )
        with serving(postgres, "bench_million", lone_worker=True) as service:
            small = min(10_000, given.items // 5)
            mill = Mill(service, told, Path(folder), given.items, small, began + given.minutes * 60)
            for part in (
                _costs_alone,
                _whole,
                _beside,
                _waiting_and_cancel,
                _costs_under_snapshot,
                _costs_beside_finished(given.finished),
            ):
                if time.monotonic() > mill.end:
                    print(f"Out of time: {part.__name__.strip('_')} and what follows it are left out.")
                    break
                part(mill, postgres)
    print(f"\n{time.monotonic() - began:.0f} s. {told.missed} goals are not met.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument(
        "--finished", type=int, help="rows that are there already, in the last part; unset: 5 times the items"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="after which no part is begun")
    given = parser.parse_args()
    given.finished = given.finished if given.finished is not None else 5 * given.items
    return given


def _write(path: Path, processor: str, items: int) -> None:
    with path.open("w") as file:
        for number in range(items):
            given = work.input_of(number) if processor == "noop" else {"sleep_seconds": WAITING}
            line = {"custom_id": work.custom_id_of(number), "input": given}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


# --- what an item costs ----------------------------------------------------------------------------------------------


def _cost(mill: Mill, items: int, times: int) -> float:
    """CPU microseconds of server, worker and Postgres for each item, from the create to the end of the batch and to the disk."""
    mill.file("noop", items)
    mill.settle()
    with Meter(mill.service.cpu) as meter:
        for _ in range(times):
            mill.until_completed(mill.create(items))
        mill.write_all()
    return sum(meter.microseconds(name, items * times) for name in ("server", "worker", "postgres"))


def _costs(mill: Mill, where: str) -> None:
    # The small ones before and behind each big one: the machine gets faster and slower.
    small, big = [_cost(mill, mill.small, SMALL_TIMES)], []
    for _ in range(BIG_TIMES):
        big.append(_cost(mill, mill.big, 1))
        small.append(_cost(mill, mill.small, SMALL_TIMES))
    off = [(one / statistics.mean(small[n : n + 2]) - 1) * 100 for n, one in enumerate(big)]
    mill.told.say(
        f"CPU for each item, batches of {mill.small:,}, {where}", statistics.median(small), "µs", digits=1
    )
    mill.told.say(
        f"CPU for each item, a batch of {mill.big:,}, {where}", statistics.median(big), "µs", digits=1
    )
    spread = " ".join(f"{one:+.1f}" for one in off)
    mill.told.say(f"off by, {where} (each: {spread})", abs(statistics.median(off)), "%", 15, digits=1)


def _costs_alone(mill: Mill, postgres: Postgres) -> None:
    _cost(mill, mill.small, 5)  # what is cold
    _costs(mill, "tables empty before")


def _costs_under_snapshot(mill: Mill, postgres: Postgres) -> None:
    with _snapshot(mill.service.database_url):
        _costs(mill, "an old snapshot held")


def _costs_beside_finished(rows: int) -> Callable[[Mill, Postgres], None]:
    def _costs_beside_finished_rows(mill: Mill, postgres: Postgres) -> None:
        batch_id = mill.create(mill.big)
        mill.until_completed(batch_id)
        began = time.monotonic()
        seed.finished(mill.service.database_url, batch_id, max(1, rows // mill.big))
        print(f"{rows:,} finished rows put in within {time.monotonic() - began:.0f} s", flush=True)
        _costs(mill, f"beside {rows:,} finished items and more")

    return _costs_beside_finished_rows


@contextmanager
def _snapshot(url: str) -> Iterator[None]:
    """A transaction that began before, and keeps Postgres from removing any dead row."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(**connect_options(url)))
        transaction = connection.transaction(isolation="repeatable_read")
        runner.run(transaction.start())
        runner.run(connection.fetchval("SELECT count(*) FROM batch"))
        yield
        runner.run(transaction.rollback())
        runner.run(connection.close())


# --- the whole way ---------------------------------------------------------------------------------------------------


def _whole(mill: Mill, postgres: Postgres) -> None:
    """In, drained and out, while another client asks."""
    service, told = mill.service, mill.told
    assert service.worker
    mill.file("noop", mill.big)
    with probing(service.url, service.key, [service.server.process_id, service.worker.process_id]) as probed:
        began = time.perf_counter()
        batch_id = mill.create(mill.big, start_paused=True)
        mill.until_ingested()
        told.say("ingest", time.perf_counter() - began, "s", 12e-6 * mill.big, digits=2)
        resumed = time.time()
        mill.client.ask("POST", f"/api/v1/batches/{batch_id}/resume")
        seconds = _ended_at(mill.until_completed(batch_id)) - resumed
        told.say("drain by one worker process", mill.big / seconds, "items/s")
        began = time.perf_counter()
        size = _exported(mill.client, batch_id, mill.big)
        taken = time.perf_counter() - began
        told.say("export as NDJSON", mill.big / taken, "rows/s", 130_000, least=True)
        told.say("export as NDJSON", size / taken / 1e6, "MB/s", 60, least=True)
    told.say("memory of server and worker: growth", probed.grown_mb, "MB", 200)
    for share, goal in ((0.5, None), (0.99, 250), (1.0, None)):
        name = "slowest" if share == 1 else f"p{share * 100:.0f}"
        told.say(
            f"other requests meanwhile, {name} of {len(probed.milliseconds):,}",
            report.quantile(probed.milliseconds, share),
            "ms",
            goal,
            digits=1,
        )
    _pages(mill, batch_id)


def _exported(client: Client, batch_id: str, items: int) -> int:
    """Reads and checks them; answers with their bytes."""
    size = count = 0
    for count, line in enumerate(client.stream(batch_id), 1):
        size += len(line)
        custom_id = f'"custom_id":"{work.custom_id_of(count - 1)}"'.encode()
        assert custom_id in line, line
        assert b'"status":"success"' in line, line
    assert count == items, f"{count} results of {items}"
    return size


def _ended_at(batch: Any) -> float:
    return datetime.fromisoformat(batch["completed_at"]).timestamp()


def _pages(mill: Mill, batch_id: str) -> None:
    path = f"/api/v1/batches/{batch_id}/results?limit={PAGE}"
    deep = mill.big * 9 // 10
    before = mill.client.get(f"{path.partition('?')[0]}?status=success&limit=1&offset={deep - 1}")
    cursor = before["pagination"]["next_cursor"]
    kinds = {
        "page of 1,000, the first": path,
        f"page of 1,000, offset {deep:,}": f"{path}&offset={deep}",
        "filtered page, the first": f"{path}&status=success",
        f"filtered page, by cursor behind {deep:,}": f"{path}&status=success&cursor={cursor}",
    }
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(PAGES + 2):  # in turn; two to warm
        for kind, page in kinds.items():
            began = time.perf_counter()
            mill.client.ask("GET", page)
            if number >= 2:
                taken[kind].append((time.perf_counter() - began) * 1e3)
    first, far, filtered, filtered_far = (statistics.median(of) for of in taken.values())
    for kind, value in zip(kinds, (first, far, filtered, filtered_far), strict=True):
        mill.told.say(kind, value, "ms", 10 if kind.startswith("page") else None, digits=1)
    mill.told.say("deep page to the first", far / first, "times", 1.3, digits=2)
    mill.told.say("deep filtered page to the first", filtered_far / filtered, "times", 1.3, digits=2)


# --- others beside it ------------------------------------------------------------------------------------------------


def _beside(mill: Mill, postgres: Postgres) -> None:
    """Tenant B's batches while A's million is drained."""
    mill.settle()
    with mill.service.client_of("tenant-b") as other:
        idle = _times(other, "noop", B_ITEMS)
        alone = _starts(other)
        batch_id = mill.create(mill.big, start_paused=True)
        mill.until_ingested()
        mill.client.ask("POST", f"/api/v1/batches/{batch_id}/resume")
        busy, starts = _times(other, "noop", B_ITEMS), _starts(other)
        under_way = mill.client.get(f"/api/v1/batches/{batch_id}")["data"]["pending_requests"]
        mill.until_completed(batch_id)
    if not under_way:
        print(f"A's {mill.big:,} items were done before B's were: the next lines say less than they seem to.")
    _compared(mill.told, f"B's {B_ITEMS} no-op items beside A's {mill.big:,}", idle, busy)
    mill.told.say("a batch of 3: create to first start, idle", statistics.median(alone), "ms", digits=1)
    mill.told.say(
        "a batch of 3: create to first start, beside A's", statistics.median(starts), "ms", digits=1
    )


def _waiting_and_cancel(mill: Mill, postgres: Postgres) -> None:
    """The same with items that wait, as for a model; then A's is cancelled."""
    mill.settle()
    with mill.service.client_of("tenant-b") as other:
        idle = _times(other, "scripted", B_ITEMS)
        batch_id = mill.create(mill.big, "scripted")
        mill.until_ingested()
        _until(lambda: mill.client.get(f"/api/v1/batches/{batch_id}")["data"]["completed_requests"])
        busy = _times(other, "scripted", B_ITEMS)
    _compared(mill.told, f"B's {B_ITEMS} items of {WAITING:g} s beside A's {mill.big:,}", idle, busy)
    began = time.perf_counter()
    answer = json.loads(mill.client.ask("POST", f"/api/v1/batches/{batch_id}/cancel"))["data"]
    answered = time.perf_counter()
    assert answer["status"] == "cancelling", answer
    mill.client.ended(batch_id, timeout_seconds=END_SECONDS)
    mill.told.say(
        f"cancel of {answer['pending_requests'] + answer['failed_requests']:,} pending: answer",
        (answered - began) * 1e3,
        "ms",
        50,
        digits=1,
    )
    mill.told.say("cancel: ended", time.perf_counter() - began, "s", 30, digits=1)


def _compared(told: Told, what: str, idle: list[float], busy: list[float]) -> None:
    told.say(f"{what}: idle", statistics.median(idle), "ms", digits=1)
    told.say(f"{what}: busy", statistics.median(busy), "ms", digits=1)
    told.say(f"{what}: times", statistics.median(busy) / statistics.median(idle), "times", 2, digits=2)


def _times(client: Client, processor: str, items: int) -> list[float]:
    """Milliseconds from the create to the end, of batches one after the other; both by the clock of Postgres. Each comes at
    some moment or other: one that followed the end of the last would always find the slots just taken by others' items, which
    all last as long as its own."""
    if processor == "noop":
        body = work.bodies(items)[0]
    else:
        requests = [{"custom_id": f"item-{n}", "input": {"sleep_seconds": WAITING}} for n in range(items)]
        body = json.dumps({"processor": processor, "requests": requests}).encode()
    taken, moments = [], random.Random(1)
    for _ in range(B_TIMES):
        time.sleep(moments.uniform(0, WAITING))
        found = client.ended(client.create(body), timeout_seconds=END_SECONDS)
        created = datetime.fromisoformat(found["created_at"]).timestamp()
        taken.append((_ended_at(found) - created) * 1e3)
    return taken


def _starts(client: Client) -> list[float]:
    """Milliseconds from the create of a batch of three to the start of its first item."""
    body = work.bodies(3, "clock")[0]
    taken = []
    for _ in range(B_STARTS):
        batch_id = client.create(body)
        found = client.ended(batch_id, timeout_seconds=END_SECONDS)
        began = min(json.loads(line)["output"]["began"] for line in client.lines(batch_id))
        taken.append((began - datetime.fromisoformat(found["created_at"]).timestamp()) * 1e3)
    return taken


def _until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + END_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("nothing has ended")
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
