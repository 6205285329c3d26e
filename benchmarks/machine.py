"""What the figures were measured on, so that nobody reads them as another machine's."""

import os
import platform
from pathlib import Path

import psutil

from benchmarks.postgres import CHOSEN, Postgres, sync_microseconds


def described(postgres: Postgres) -> list[str]:
    kept = ", ".join(f"{name} {value}" for name, value in CHOSEN.items())
    return [
        f"{os.cpu_count()} cores ({_processor()}), {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}",
        f"Python {platform.python_version()}, Postgres {postgres.version} over TCP on this machine: fsync, synchronous_commit"
        f" and full_page_writes on, {kept}",
        f"the disk keeps 8 kB in {sync_microseconds():.0f} µs (median fdatasync)",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
