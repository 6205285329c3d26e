"""`make bench`: rounds of Gristmill and of pgqueuer in turn, on the same durable Postgres; then what has no peer.

Rates depend on what else the machine does; ratios of neighbouring rounds and CPU per item hardly do. Strangers are what
else ran: cores used by processes that are no part of the measurement.
"""

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks import machine, reads, report, wake
from benchmarks.drain import Drained, apart, together
from benchmarks.peers import PGQUEUER, Candidate
from benchmarks.postgres import Postgres, running
from benchmarks.report import Goal

ROUNDS_SHARE = 0.6  # of the time; the rest is for what has no peer
NOISY = 0.5  # cores used by strangers: beyond, rates say little


@dataclass(frozen=True)
class Options:
    items: int
    rounds: int
    peer_jobs: int
    batch_sizes: Sequence[int]
    minutes: float


@dataclass
class Measured:
    gristmill: list[Drained] = field(default_factory=list)
    peers: dict[int, list[Drained]] = field(default_factory=dict)  # by batch size
    more: list[Goal] = field(default_factory=list)  # of what has no peer
    deep: list[Drained] = field(default_factory=list)  # the peer's best size on a queue as deep as ours

    @property
    def best(self) -> int:
        """The peer's batch size with the highest median rate."""
        return max(
            self.peers, key=lambda size: report.median(self.peers[size], lambda one: one.drained_per_second)
        )

    @property
    def peer_rate(self) -> float:
        return report.median(self.peers[self.best], lambda one: one.drained_per_second)


class Clock:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def used(self, share: float) -> bool:
        """Whether that share of the time is over."""
        return self.left() < self._seconds * (1 - share)


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended
    print("The environment of pgqueuer …", flush=True)
    command = PGQUEUER.command()
    clock = Clock(options.minutes * 60)
    with running() as postgres:
        print(*machine.described(postgres), sep="\n", flush=True)
        measured = Measured()
        for number in range(options.rounds):
            if number and clock.used(ROUNDS_SHARE):
                print(f"Out of time for more than {number} of {options.rounds} rounds.")
                break
            print(f"Round {number + 1} of {options.rounds}", flush=True)
            _round(measured, postgres, command, options)
        alone = list(_alone(measured, postgres, options, clock))
        if clock.left() > 4 * options.items / measured.peer_rate:
            measured.deep.append(_peer(command, measured.best, options.items).drain(postgres))
    for lines in (_drains(measured), alone, _goals(measured)):
        print("", *lines, sep="\n")


def _peer(command: Sequence[str], batch_size: int, jobs: int) -> Candidate:
    return Candidate(PGQUEUER, str(batch_size), command, jobs)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--items", type=int, default=400_000, help="of each round of Gristmill")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-jobs", type=int, default=20_000, help="of each round of pgqueuer")
    parser.add_argument("--batch-sizes", default="100,250,500", help="that pgqueuer is tried with")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new is begun")
    given = parser.parse_args()
    sizes = [int(size) for size in given.batch_sizes.split(",")]
    return Options(given.items, given.rounds, given.peer_jobs, sizes, given.minutes)


def _round(measured: Measured, postgres: Postgres, command: Sequence[str], options: Options) -> None:
    ours = apart(postgres, options.items)
    measured.gristmill.append(ours)
    print(report.line(ours), flush=True)
    for size in options.batch_sizes:
        theirs = _peer(command, size, options.peer_jobs).drain(postgres)
        measured.peers.setdefault(size, []).append(theirs)
        print(report.line(theirs), flush=True)


# --- what is printed ------------------------------------------------------------------------------------------


def _drains(measured: Measured) -> list[str]:
    rows = [measured.gristmill, *measured.peers.values(), *([measured.deep] if measured.deep else [])]
    ratios = _ratios(measured)
    cpu = [
        theirs.microseconds / ours.microseconds
        for ours, theirs in zip(measured.gristmill, measured.peers[measured.best], strict=True)
    ]
    return [
        "Medians [least - most]; CPU of clients and Postgres for each item, ingest included; strangers in cores.",
        "",
        *report.table(rows),
        "",
        f"Drain, Gristmill to pgqueuer at batches of {measured.best}, round by round: {report.spread(ratios, 1)} times",
        f"CPU for each item, pgqueuer to Gristmill: {report.spread(cpu, 1)} times",
        *_posts(measured),
        *_warning(measured),
    ]


def _ratios(measured: Measured) -> list[float]:
    best = measured.peers[measured.best]
    return [
        ours.drained_per_second / theirs.drained_per_second
        for ours, theirs in zip(measured.gristmill, best, strict=True)
    ]


def _posts(measured: Measured) -> list[str]:
    def values(name: str) -> list[float]:
        return [one.more[name] for one in measured.gristmill]

    return [
        f"POST of 1,000 items: p50 {report.spread(values('post_p50_ms'), 1)} ms, p90 "
        f"{report.spread(values('post_p90_ms'), 1)} ms, CPU {report.spread(values('post_server_cpu_ms'), 1)} ms of the "
        f"server and {report.spread(values('post_postgres_cpu_ms'), 1)} ms of Postgres",
        f"Results as NDJSON: {report.spread(values('ndjson_per_second'))} rows/s on one connection, "
        f"{report.spread(values('ndjson_us'), 1)} µs CPU of server and Postgres for each row",
    ]


def _warning(measured: Measured) -> list[str]:
    noisy = sum(one.other > NOISY for one in measured.gristmill)
    if not noisy:
        return []
    return [
        f"In {noisy} of {len(measured.gristmill)} rounds strangers used more than {NOISY:g} cores: rates are too low."
    ]


def _alone(measured: Measured, postgres: Postgres, options: Options, clock: Clock) -> Iterator[str]:
    if clock.left() > 0:
        one = together(postgres, options.items)
        yield (
            f"One process, POSTs and work at the same time: {one['per_second']:,.0f} items/s, CPU "
            f"{one['python_us']:.1f} µs of it and {one['postgres_us']:.1f} µs of Postgres for each item "
            f"(strangers {one['other']:.1f})"
        )
    for (where, how), bound in zip(wake.WAYS.items(), (0.2, 1, 3), strict=True):
        if clock.left() > 0:
            waits = wake.measure(postgres, 100, **how)
            p50 = report.quantile(waits.answered, 0.5)
            what = f"commit to start, worker {where}"
            measured.more.append(Goal(what, p50, bound, "ms", at_most=True, digits=2))
            yield f"From {what}: {waits}"
    if clock.left() > 0:
        get = reads.one_batch(postgres, 10_000)
        measured.more.append(Goal("GET of one batch, for each core", get["per_server_core"], 2500, "/s"))
        yield (
            f"GET of one batch: {get['per_second']:,.0f}/s over {reads.CONNECTIONS} connections, "
            f"{get['per_server_core']:,.0f}/s for each core of the server; CPU {get['server_us']:.0f} µs of it and "
            f"{get['postgres_us']:.0f} µs of Postgres (strangers {get['other']:.1f})"
        )


def _goals(measured: Measured) -> list[Goal]:
    """Those of docs/performance.md that this command is for."""
    ours = measured.gristmill

    def of(name: str) -> float:
        return report.median(ours, lambda one: one.more[name])

    cpu = report.median(ours, lambda one: one.microseconds)
    return [
        Goal("drain, times pgqueuer's best", statistics.median(_ratios(measured)), 8, "times"),
        Goal("CPU for each item", cpu, 20, "µs", at_most=True),
        Goal("POST of 1,000 items, p50", of("post_p50_ms"), 16, "ms", at_most=True),
        Goal("POST of 1,000 items, CPU of the server", of("post_server_cpu_ms"), 9, "ms", at_most=True),
        Goal("results as NDJSON", of("ndjson_per_second"), 130_000, "rows/s"),
        *measured.more,
    ]


if __name__ == "__main__":
    main()
