"""What the processor `recorded` wrote down: which process began and ended which run of which item."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    batch_id: str
    ordinal: int


class Run(NamedTuple):
    pid: int
    item: Item
    attempt: int


@dataclass(frozen=True)
class Ledger:
    """`begun` counts each run; one that a process began twice in the same attempt counts twice."""

    begun: Counter[Run]
    ended: Counter[Run]

    def runs_of(self, item: Item) -> list[int]:
        """The process of each of its runs."""
        return [run.pid for run in self.begun.elements() if run.item == item]

    def by_item(self) -> dict[Item, list[int]]:
        """For each item that ever ran, the process of each of its runs."""
        found: dict[Item, list[int]] = {}
        for run in self.begun.elements():
            found.setdefault(run.item, []).append(run.pid)
        return found

    def ended_by(self, pid: int) -> int:
        return sum(count for run, count in self.ended.items() if run.pid == pid)

    def open_of(self, pid: int) -> set[Item]:
        """What that process has begun and not ended."""
        return {run.item for run in (self.begun - self.ended) if run.pid == pid}


def read(path: Path) -> Ledger:
    begun: Counter[Run] = Counter()
    ended: Counter[Run] = Counter()
    for line in path.read_text("ascii").splitlines() if path.exists() else []:
        what, pid, batch_id, ordinal, attempt = line.split(" ")
        run = Run(int(pid), Item(batch_id, int(ordinal)), int(attempt))
        (begun if what == "begin" else ended)[run] += 1
    return Ledger(begun, ended)
