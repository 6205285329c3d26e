"""Gristmill beside other queues: `.venv/bin/python -m benchmarks.peers`, or with the names of some of them (docs/performance.md).

Rounds in turn, on one durable Postgres and a Redis that is as durable, each with an empty database. The first round tries all
settings of a peer; its fastest goes on.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks import environments, floor, machine, meter, plot, postgres, redis, report
from benchmarks.drain import Drained, apart
from benchmarks.environments import PEER, Missing

TIMEOUT_SECONDS = 300.0


class Store(Protocol):
    """What the jobs are in."""

    cpu: meter.CpuSeconds

    def fresh(self, name: str) -> str: ...


@dataclass(frozen=True)
class Peer:
    """`settings`: documented ways to be fast (the program cites where). `jobs`: of each round; slower queues get fewer."""

    name: str
    version: str
    settings: Sequence[str]
    jobs: int
    unit: str = ""  # of the setting
    on_redis: bool = False
    python: tuple[int, int] = (3, 11)
    node: bool = False

    def command(self) -> list[str]:
        """Makes the environment. Raises Missing."""
        if self.node:
            return ["node", str(environments.node(self.name.split("-")[0]) / "noop.mjs")]
        return [str(environments.python(self.name, self.python)), str(PEER / f"{self.name}_noop.py")]


PGQUEUER = Peer("pgqueuer", "1.6.0", ("250", "500", "100"), 20_000, "batches of")
PEERS = (
    PGQUEUER,
    Peer("graphile-worker", "0.17.3", ("500",), 20_000, "local queue of", node=True),
    Peer("oban", "0.7.0", ("1000", "200"), 10_000, "limit", python=(3, 12)),
    Peer("taskiq", "0.13.0", ("stream 100", "list 100"), 5_000, on_redis=True),
    Peer("arq", "0.28.0", ("100", "20"), 5_000, "max_jobs", on_redis=True),
    Peer("celery", "5.7.0", ("solo 1", "threads 8", "prefork 2"), 5_000, on_redis=True),
    Peer("procrastinate", "3.10.0", ("20", "100"), 3_000, "concurrency"),
)


@dataclass(frozen=True)
class Candidate:
    """A peer with one of its settings."""

    peer: Peer
    setting: str
    command: Sequence[str]
    jobs: int

    @property
    def name(self) -> str:
        setting = f"{self.peer.unit} {self.setting}".strip()
        return f"{self.peer.name} {self.peer.version}, {setting}"

    def drain(self, store: Store) -> Drained:
        url = store.fresh("bench_peer")
        self._run("install", url)
        watched = {"store": store.cpu, "peer": meter.of_ended_children}
        with meter.Meter(watched) as ingest:
            put = self._run("enqueue", url, str(self.jobs), self.setting)
        with meter.Meter(watched) as drain:
            done = self._run("work", url, str(self.jobs), self.setting)
        return Drained(
            name=self.name,
            items=self.jobs,
            ingest_seconds=put["seconds"],
            drain_seconds=done["seconds"],
            ingest_own=put["cpu_seconds"],
            ingest_store=ingest.cpu["store"],
            drain_own=done["cpu_seconds"],
            drain_store=drain.cpu["store"],
            other=max(ingest.other, drain.other),
        )

    def _run(self, *arguments: str) -> dict[str, float]:
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} failed:\n{done.stderr[-2000:]}")
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured


@dataclass
class Rounds:
    gristmill: list[Drained] = field(default_factory=list)
    floor: list[Drained] = field(default_factory=list)
    peers: dict[str, dict[str, list[Drained]]] = field(default_factory=dict)  # by peer and setting
    left_out: dict[str, str] = field(default_factory=dict)

    def best(self, name: str) -> list[Drained]:
        """Of the setting with the most rounds: the one that went on."""
        return max(self.peers[name].values(), key=lambda rounds: (len(rounds), rounds[0].drained_per_second))


def main() -> None:
    given = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended
    end = time.monotonic() + given.minutes * 60
    rounds = Rounds()
    candidates = list(_candidates(given, rounds))
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running())
        stores: dict[bool, Store] = {False: server}
        print(*machine.described(server), sep="\n", flush=True)
        if any(one.peer.on_redis for one in candidates):
            try:
                stores[True] = beside = stack.enter_context(redis.running())
                print(f"Redis {beside.version}: {' '.join(redis.DURABLE[:4])}", flush=True)
            except Missing as why:
                rounds.left_out |= {one.peer.name: str(why) for one in candidates if one.peer.on_redis}
        for number in range(given.rounds):
            if number and time.monotonic() > end:
                print(f"Out of time for more than {number} of {given.rounds} rounds.")
                break
            print(f"Round {number + 1} of {given.rounds}", flush=True)
            _noted(rounds.gristmill, lambda: apart(server, given.items))
            _noted(rounds.floor, lambda: floor.drain(server, given.items))
            for one in candidates:
                _turn(rounds, one, stores, first=number == 0)
    print("", *_told(rounds), sep="\n")
    if given.plot and rounds.peers:
        shown = [rounds.gristmill, rounds.floor, *(rounds.best(name) for name in rounds.peers)]
        given.plot.write_text(plot.of_queues(shown))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(one.name for one in PEERS))
    parser.add_argument("--items", type=int, default=400_000, help="of each round of Gristmill")
    parser.add_argument(
        "--jobs", type=float, default=1.0, help="this part of the jobs that a peer gets in each round"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=12.0, help="after which no round is begun")
    parser.add_argument("--plot", type=Path, help="an SVG to write, such as docs/peers.svg")
    given = parser.parse_args()
    unknown = set(given.names) - {one.name for one in PEERS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return given


def _candidates(given: argparse.Namespace, rounds: Rounds) -> "Sequence[Candidate]":
    found = []
    for peer in PEERS:
        if given.names and peer.name not in given.names:
            continue
        print(f"The environment of {peer.name} …", flush=True)
        try:
            command = peer.command()
        except Missing as why:
            rounds.left_out[peer.name] = str(why)
            continue
        jobs = max(100, int(peer.jobs * given.jobs))
        found += [Candidate(peer, setting, command, jobs) for setting in peer.settings]
    return found


def _turn(rounds: Rounds, one: Candidate, stores: dict[bool, Store], *, first: bool) -> None:
    name = one.peer.name
    if name in rounds.left_out:
        return
    of = rounds.peers.get(name, {})
    if not first and of[one.setting] is not rounds.best(name):
        return
    try:
        _noted(
            rounds.peers.setdefault(name, {}).setdefault(one.setting, []),
            lambda: one.drain(stores[one.peer.on_redis]),
        )
    except (RuntimeError, subprocess.TimeoutExpired) as why:
        rounds.left_out[name] = str(why)
        rounds.peers.pop(name, None)


def _noted(into: list[Drained], measure: Callable[[], Drained]) -> None:
    into.append(measure())
    print(report.line(into[-1]), flush=True)


def _told(rounds: Rounds) -> list[str]:
    all_ = [of for settings in rounds.peers.values() for of in settings.values()]
    lines = [
        "Medians [least - most]; CPU of clients and Postgres or Redis for each item, ingest included; strangers in cores.",
        "",
        *report.table([rounds.gristmill, *all_, rounds.floor]),
        "",
        "| Gristmill to | drain, round by round | CPU for each item |",
        "| --- | ---: | ---: |",
    ]
    for name in rounds.peers:
        of = rounds.best(name)
        pairs = list(zip(rounds.gristmill, of, strict=False))
        drain = [ours.drained_per_second / theirs.drained_per_second for ours, theirs in pairs]
        cpu = [theirs.microseconds / ours.microseconds for ours, theirs in pairs]
        lines.append(f"| {of[0].name} | {report.spread(drain, 1)} times | 1/{report.spread(cpu, 1)} |")
    lines += [f"Left out: {name}: {why}" for name, why in rounds.left_out.items()]
    return [*lines, "", *map(str, _goals(rounds))]


def _goals(rounds: Rounds) -> list[report.Goal]:
    """Goal 1 of docs/performance.md, and the part of goal 2 that is about the floor."""
    ours = statistics.median(one.drained_per_second for one in rounds.gristmill)

    def times(names: Sequence[str]) -> float:
        return ours / max(
            report.median(rounds.best(name), lambda one: one.drained_per_second) for name in names
        )

    def store(of: Sequence[Drained]) -> float:
        return report.median(of, lambda one: one.ingest_store + one.drain_store)

    bare = report.median(rounds.floor, lambda one: one.drained_per_second)
    goals = [
        report.Goal("drain, share of the floor", 100 * ours / bare, 65, "%"),
        report.Goal(
            "CPU of Postgres, times the floor's",
            store(rounds.gristmill) / store(rounds.floor),
            1.3,
            "times",
            at_most=True,
        ),
    ]
    for what, node, bound in (("the best Python peer", False, 8), ("graphile-worker", True, 5)):
        names = [one.name for one in PEERS if one.node is node and one.name in rounds.peers]
        if names:
            goals.append(report.Goal(f"drain, times {what}", times(names), bound, "times"))
    return goals


if __name__ == "__main__":
    main()
