"""CPU seconds of processes, and of everything else on the machine meanwhile. Reads /proc, so Linux only."""

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import psutil

CpuSeconds = Callable[[], float]


def of_process(process_id: int) -> CpuSeconds:
    """User and system time of all threads of one process, in steps of 10 ms."""
    process = psutil.Process(process_id)

    def used() -> float:
        times = process.cpu_times()
        return times.user + times.system

    return used


def of_tree(process_id: int) -> CpuSeconds:
    """Of a process, of its children, and of those that have ended: a Postgres with all its backends."""
    root = psutil.Process(process_id)

    def ended() -> float:
        times = root.cpu_times()
        return float(times.children_user + times.children_system)

    def alive() -> float:
        total = 0.0
        for process in (root, *root.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def used() -> float:
        while True:
            before = ended()
            total = before + alive()
            if ended() == before:  # else one that ended meanwhile may have been counted twice, or not at all
                return total

    return used


def of_ended_children() -> float:
    """Of the processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def of_machine() -> float:
    """Of everything, from the first line of /proc/stat; idle and waiting for the disk are not used time."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class Meter:
    """Measures its block: `seconds`, `cpu` by name (CPU seconds), and `other`, the cores that strangers used.

    The process of the benchmark itself is `client`.
    """

    def __init__(self, watched: Mapping[str, CpuSeconds]) -> None:
        self._watched = {**watched, "client": time.process_time}
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self.other = 0.0

    def __enter__(self) -> Self:
        self._machine = of_machine()
        self._before = {name: used() for name, used in self._watched.items()}
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu = {name: used() - self._before[name] for name, used in self._watched.items()}
        strangers = of_machine() - self._machine - sum(self.cpu.values())
        self.other = max(0.0, strangers / self.seconds)

    def microseconds(self, name: str, items: int) -> float:
        """CPU per item of one of the watched."""
        return self.cpu[name] / items * 1e6
