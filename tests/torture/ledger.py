"""What the processor `recorded` wrote down: which process began and ended which run of which item."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    batch_id: str
    ordinal: int


class Ledger:
    """`runs` has, for each item that ever ran, the process of each of its runs, `begun` the moments (Unix seconds).
    `ended` counts runs by process."""

    def __init__(self, path: Path | None = None) -> None:
        self.runs: defaultdict[Item, list[int]] = defaultdict(list)
        self.begun: defaultdict[Item, list[float]] = defaultdict(list)
        self.ended: Counter[int] = Counter()
        self._open: Counter[tuple[int, Item]] = Counter()
        self._path = path
        self._read = 0

    def catch_up(self) -> "Ledger":
        """With what has been written since the last time."""
        if self._path is not None and self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            self._read += len(whole) + 1 if whole else 0
            for line in whole.decode("ascii").splitlines():
                self.add(line)
        return self

    def add(self, line: str) -> None:
        what, pid, batch_id, ordinal, _attempt, at = line.split(" ")
        item = Item(batch_id, int(ordinal))
        if what == "begin":
            self.runs[item].append(int(pid))
            self.begun[item].append(float(at))
            self._open[int(pid), item] += 1
        else:
            self.ended[int(pid)] += 1
            self._open[int(pid), item] -= 1

    def open_of(self, pid: int) -> int:
        """How many runs that process has begun and not ended."""
        return sum(count for (one, _), count in self._open.items() if one == pid)

    def cut_off(self, pid: int) -> list[Item]:
        """The items whose run that process has begun and not ended."""
        return [item for (one, item), count in self._open.items() if one == pid and count > 0]
