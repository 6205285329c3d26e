"""Another client beside the load, in a process of its own: how long its requests take, and how much the service grows."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import psutil

from benchmarks import work
from benchmarks.client import Client

PAUSE_SECONDS = 0.02
MEMORY_SECONDS = 0.1
STOP_SECONDS = 60.0


@dataclass
class Probed:
    """Of what was seen during the block. `milliseconds` ascending."""

    milliseconds: list[float] = field(default_factory=list)
    grown_mb: float = 0.0  # the peaks of all processes together, above what they had before


@contextmanager
def probing(url: str, key: str, process_ids: Sequence[int]) -> Iterator[Probed]:
    """A GET of one batch, a page of its results and a POST of one item, in turn, while the block goes on."""
    probed = Probed()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_probe, args=(url, key, list(process_ids), theirs), daemon=True
    )
    process.start()
    try:
        ours.recv()  # it is there, and has looked at the memory
        yield probed
        ours.send("stop")
        if not ours.poll(STOP_SECONDS):
            raise TimeoutError("a request beside the load was not answered")
        milliseconds, probed.grown_mb = ours.recv()
        probed.milliseconds = sorted(milliseconds)
    finally:
        process.kill()
        process.join()


def _probe(url: str, key: str, process_ids: list[int], out: Connection) -> None:
    processes = [psutil.Process(one) for one in process_ids]
    before = peak = [one.memory_info().rss for one in processes]
    body = work.bodies(1)[0]
    taken: list[float] = []
    with Client(url, key) as client:
        batch_id = client.create(work.bodies(100)[0])
        path = f"/api/v1/batches/{batch_id}"
        out.send("ready")
        looked = 0.0
        while not out.poll():
            for method, to, what in (
                ("GET", path, None),
                ("GET", f"{path}/results", None),
                ("POST", "/api/v1/batches", body),
            ):
                began = time.perf_counter()
                client.ask(method, to, what)
                taken.append((time.perf_counter() - began) * 1e3)
                time.sleep(PAUSE_SECONDS)
                if time.monotonic() - looked > MEMORY_SECONDS:
                    looked = time.monotonic()
                    peak = [max(a, one.memory_info().rss) for a, one in zip(peak, processes, strict=True)]
    out.send((taken, sum(now - then for now, then in zip(peak, before, strict=True)) / 1e6))
