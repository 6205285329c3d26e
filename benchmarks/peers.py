"""pgqueuer beside us: the fastest queue on Postgres for Python that was found, at its best batch sizes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import meter
from benchmarks.drain import Drained
from benchmarks.postgres import Postgres

HERE = Path(__file__).parent / "peer"
REQUIREMENTS = HERE / "requirements.txt"
PROGRAM = HERE / "pgqueuer_noop.py"
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Peer:
    """pgqueuer with one setting, on a queue of so many jobs: the deeper its queue, the slower it is."""

    python: Path
    batch_size: int
    jobs: int

    @property
    def name(self) -> str:
        return f"pgqueuer, batches of {self.batch_size}, {self.jobs:,} jobs"

    def drain(self, postgres: Postgres) -> Drained:
        url = postgres.fresh("bench_peer")
        self._run("install", url)
        watched = {"postgres": postgres.cpu, "peer": meter.of_ended_children}
        with meter.Meter(watched) as ingest:
            put = self._run("enqueue", url, self.jobs)
        with meter.Meter(watched) as drain:
            done = self._run("work", url, self.jobs, self.batch_size)
        return Drained(
            name=self.name,
            items=self.jobs,
            ingest_seconds=put["seconds"],
            drain_seconds=done["seconds"],
            ingest_python=put["cpu_seconds"],
            ingest_postgres=ingest.cpu["postgres"],
            drain_python=done["cpu_seconds"],
            drain_postgres=drain.cpu["postgres"],
            other=max(ingest.other, drain.other),
        )

    def _run(self, phase: str, url: str, *numbers: int) -> dict[str, float]:
        done = subprocess.run(
            [str(self.python), str(PROGRAM), phase, url, *map(str, numbers)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pgqueuer failed:\n{done.stderr[-2000:]}")
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured


def python(folder: Path) -> Path:
    """Of an environment with what `peer/requirements.txt` names; made in `folder` unless it is there."""
    mark = folder / "requirements.txt"
    found = folder / "bin" / "python"
    if mark.exists() and mark.read_text() == REQUIREMENTS.read_text():
        return found
    shutil.rmtree(folder, ignore_errors=True)
    for command in _installing(folder, found):
        subprocess.run(command, check=True, env={**os.environ, "UV_LINK_MODE": "copy"})
    shutil.copy(REQUIREMENTS, mark)
    return found


def _installing(folder: Path, python: Path) -> list[list[str]]:
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return [[sys.executable, "-m", "venv", str(folder)], [*pip, "-r", str(REQUIREMENTS)]]
    make = [uv, "venv", "--quiet", "--python", sys.executable, str(folder)]
    return [make, [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(REQUIREMENTS)]]
