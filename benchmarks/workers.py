"""What more worker processes bring: `.venv/bin/python -m benchmarks.workers`, rounds of 1, 2 and 4 in turn (docs/scaling.md).

Two kinds of items. Those without any work show how far one machine goes: workers, Postgres and the server share its cores. Those
that wait, as for a model, show that slots add up: a process can have so many items in flight, two can have twice as many. Last,
how long one batch takes that just fills the slots of all: as long as one item, if each worker takes its part at once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks import machine, report, work
from benchmarks.meter import Meter
from benchmarks.postgres import Postgres, running
from benchmarks.service import Service, serving

END_SECONDS = 300.0
WAIT_SECONDS = 0.5  # of an item that waits
QUIET_SECONDS = 1.5  # before a batch for all: no worker remembers how fast items were


@dataclass(frozen=True)
class Round:
    """CPU is of workers, server and Postgres, in microseconds for each item; `other`: cores that strangers used."""

    workers: int
    per_second: float
    worker_us: float
    postgres_us: float
    busy: (
        float  # share of the slots of all workers that had an item, over the whole time; items that wait only
    )
    other: float


def main() -> None:
    given = _options()
    counts = [int(count) for count in given.workers.split(",")]
    with running() as postgres:
        print(*machine.described(postgres), sep="\n", flush=True)
        for kind in ("noop", "waiting"):
            rounds: dict[int, list[Round]] = {count: [] for count in counts}
            for number in range(given.rounds):
                for count in counts if number % 2 == 0 else counts[::-1]:
                    one = _round(postgres, kind, count, given)
                    rounds[count].append(one)
                    print(
                        f"  {kind}, {count}: {one.per_second:,.0f}/s, strangers {one.other:.1f} cores",
                        flush=True,
                    )
            print("", *_table(kind, rounds), "", sep="\n", flush=True)
        print(
            "One batch of as many items that wait as there are slots, or 1,000: seconds to its end.",
            flush=True,
        )
        for count in counts:
            print(f"  {count} workers: {report.spread(_for_all(postgres, count, given), 2)}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=100_000, help="without work, of each round")
    parser.add_argument("--seconds", type=float, default=10.0, help="that items that wait would take at best")
    parser.add_argument("--concurrency", type=int, default=256, help="items in flight of each worker")
    return parser.parse_args()


def _round(postgres: Postgres, kind: str, workers: int, given: argparse.Namespace) -> Round:
    slots = given.concurrency * workers
    items = given.items if kind == "noop" else int(slots * given.seconds / WAIT_SECONDS)
    bodies = work.bodies(items) if kind == "noop" else _waiting(items)
    settings = {"GRISTMILL_CONCURRENCY": str(given.concurrency)}
    with serving(postgres, "bench_workers", lone_worker=True, workers=workers, settings=settings) as service:
        for one in service.workers:
            one.hold()
        ids = [service.client.create(body) for body in bodies]
        with Meter(service.cpu) as meter:
            began = time.time()
            for one in service.workers:
                one.go()
            service.client.until_ended(len(ids), timeout_seconds=END_SECONDS)
        seconds = _last_end(service, ids) - began
        if kind == "noop":
            work.check([line for one in ids for line in service.client.lines(one)], items)
    return Round(
        workers,
        items / seconds,
        meter.microseconds("worker", items),
        meter.microseconds("postgres", items),
        items * WAIT_SECONDS / (slots * seconds) if kind == "waiting" else 0.0,
        meter.other,
    )


def _for_all(postgres: Postgres, workers: int, given: argparse.Namespace) -> list[float]:
    """Twice as many batches as there are rounds, each to workers that have nothing to do."""
    settings = {"GRISTMILL_CONCURRENCY": str(given.concurrency)}
    seconds = []
    with serving(postgres, "bench_workers", lone_worker=True, workers=workers, settings=settings) as service:
        for number in range(2 * given.rounds):
            time.sleep(QUIET_SECONDS)
            one = service.client.create(_batch(range(min(given.concurrency * workers, work.PER_BATCH))))
            service.client.until_ended(number + 1, timeout_seconds=END_SECONDS)
            told = service.client.get(f"/api/v1/batches/{one}")["data"]
            began, ended = (datetime.fromisoformat(told[at]) for at in ("created_at", "completed_at"))
            seconds.append((ended - began).total_seconds())
    return seconds


def _waiting(items: int) -> list[bytes]:
    numbers = range(items)
    return [_batch(numbers[first : first + work.PER_BATCH]) for first in range(0, items, work.PER_BATCH)]


def _batch(numbers: range) -> bytes:
    requests = [
        {"custom_id": work.custom_id_of(n), "input": {"sleep_seconds": WAIT_SECONDS}} for n in numbers
    ]
    return json.dumps({"processor": "scripted", "requests": requests}).encode()


def _last_end(service: Service, batch_ids: Sequence[str]) -> float:
    """Unix seconds."""
    ends = [service.client.get(f"/api/v1/batches/{one}")["data"]["completed_at"] for one in batch_ids]
    return max(datetime.fromisoformat(end).timestamp() for end in ends)


def _table(kind: str, rounds: dict[int, list[Round]]) -> list[str]:
    lines = [
        f"Items {'without work' if kind == 'noop' else f'that wait {WAIT_SECONDS:g} s'}; medians [least - most].",
        "",
        "| workers | items/s | times one | slots busy | CPU µs: worker | Postgres | strangers |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = min(rounds)
    for count, of in rounds.items():
        rates = [one.per_second for one in of]
        times = statistics.median(
            one.per_second / alone.per_second for one, alone in zip(of, rounds[first], strict=True)
        )
        busy = f"{statistics.median(one.busy for one in of):.0%}" if kind == "waiting" else ""
        cpu = [
            statistics.median(getattr(one, name) for one in of)
            for name in ("worker_us", "postgres_us", "other")
        ]
        lines.append(
            f"| {count} | {report.spread(rates)} | {times:.2f} | {busy} | {cpu[0]:.1f} | {cpu[1]:.1f} | {cpu[2]:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
