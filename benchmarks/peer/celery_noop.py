"""Celery on Redis: results ignored, a high prefetch multiplier for short tasks
(https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits), the kind of pool as the setting
(https://docs.celeryq.dev/en/stable/userguide/concurrency/), no gossip, mingling, heartbeats and events.

Counted is across processes, as the pool `prefork` works in children; the CPU of those that live counts, too.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time

from celery import Celery
from timing import measuring, texts

PREFETCH = 128
app = Celery("noop")
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=PREFETCH, worker_redirect_stdouts=False)
_left = multiprocessing.Value("i", 0)
_moments = multiprocessing.Array("d", [0.0, 0.0])


@app.task(name="noop")
def noop(text: str) -> None:
    with _left.get_lock():
        _moments[1] = time.perf_counter()
        _moments[0] = _moments[0] or _moments[1]
        _left.value -= 1


def enqueue(jobs: int) -> dict[str, float]:
    measured: dict[str, float] = {}
    with (
        app.connection_for_write() as connection,
        app.amqp.Producer(connection) as producer,
        measuring(measured),
    ):
        for text in texts(jobs):
            noop.apply_async((text,), producer=producer)
    return measured


def work(jobs: int, pool: str) -> dict[str, float]:
    _left.value = jobs
    measured: dict[str, float] = {}
    began = _cpu()

    def watch() -> None:
        while _left.value > 0:
            time.sleep(0.01)
        measured.update(seconds=_moments[1] - _moments[0], cpu_seconds=_cpu() - began)
        os.kill(os.getpid(), signal.SIGTERM)  # a warm shutdown

    threading.Thread(target=watch, daemon=True).start()
    kind, number = pool.split()
    off = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with contextlib.suppress(SystemExit):
        app.worker_main(["worker", "-P", kind, "-c", number, "-l", "ERROR", *off])
    return measured


def _cpu() -> float:
    """Of this process and its children that live."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    ticks = 0
    for child in children:
        with open(f"/proc/{child}/stat") as file:
            ticks += sum(int(word) for word in file.read().rpartition(")")[2].split()[11:13])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    phase, app.conf.broker_url, *more = sys.argv[1:]
    if phase == "install":
        print("{}")
    else:
        print(json.dumps(enqueue(int(more[0])) if phase == "enqueue" else work(int(more[0]), more[1])))
