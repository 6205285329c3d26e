"""Medians with their spread, in lines that read well in a terminal and in docs/performance.md."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.drain import Drained


@dataclass(frozen=True)
class Goal:
    """`bound` is reached by figures at least that high, or at most if `at_most`."""

    what: str
    figure: float
    bound: float
    unit: str
    at_most: bool = False
    digits: int = 1

    def __str__(self) -> str:
        met = self.figure <= self.bound if self.at_most else self.figure >= self.bound
        bound = f"{'<=' if self.at_most else '>='} {self.bound:g}"
        return f"{'met    ' if met else 'NOT MET'}  {self.what}: {self.figure:.{self.digits}f} {self.unit} ({bound})"


def median(rounds: Sequence[Drained], figure: Callable[[Drained], float]) -> float:
    return statistics.median(figure(one) for one in rounds)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the least and the most in brackets."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} [{least:,.{digits}f} - {most:,.{digits}f}]"


def quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]


_COLUMNS: tuple[tuple[str, Callable[[Drained], float], int], ...] = (
    ("ingest/s", lambda one: one.ingested_per_second, 0),
    ("drain/s", lambda one: one.drained_per_second, 0),
    ("CPU µs", lambda one: one.microseconds, 1),
    ("ingest: own", lambda one: one.ingest_own / one.items * 1e6, 1),
    ("store", lambda one: one.ingest_store / one.items * 1e6, 1),
    ("drain: own", lambda one: one.drain_own / one.items * 1e6, 1),
    ("store", lambda one: one.drain_store / one.items * 1e6, 1),
    ("strangers", lambda one: one.other, 1),
)


def table(measured: Sequence[Sequence[Drained]]) -> list[str]:
    """One row for each that was measured: the medians of its rounds; the first three with their spread."""
    lines = [
        "| | rounds | " + " | ".join(name for name, _, _ in _COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(_COLUMNS) + 1),
    ]
    for rounds in measured:
        cells = [
            _cell(rounds, figure, digits, index < 3) for index, (_, figure, digits) in enumerate(_COLUMNS)
        ]
        lines.append(f"| {rounds[0].name} | {len(rounds)} | " + " | ".join(cells) + " |")
    return lines


def _cell(rounds: Sequence[Drained], figure: Callable[[Drained], float], digits: int, full: bool) -> str:
    values = [figure(one) for one in rounds]
    return spread(values, digits) if full else f"{statistics.median(values):,.{digits}f}"


def line(one: Drained) -> str:
    """One round, as it ends."""
    return (
        f"  {one.name}: {one.drained_per_second:,.0f}/s, {one.microseconds:.1f} µs CPU, "
        f"strangers used {one.other:.1f} cores"
    )
