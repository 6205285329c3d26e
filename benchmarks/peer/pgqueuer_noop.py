"""pgqueuer at the same work. Runs in an environment of its own: `install`, `enqueue N`, `work N BATCH`, each with a DSN.

Prints one line of JSON. CPU seconds are of this process, from after its imports to the end of its work.
"""

import asyncio
import contextlib
import json
import sys
import time
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

PER_CALL = 1000
END_SECONDS = 15.0


async def install(dsn: str) -> dict[str, float]:
    connection = await asyncpg.connect(dsn)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()
    return {}


async def enqueue(dsn: str, jobs: int) -> dict[str, float]:
    payloads = [json.dumps({"text": f"{number:012d}".ljust(239, "x")}).encode() for number in range(jobs)]
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    began, cpu = time.perf_counter(), time.process_time()
    for first in range(0, jobs, PER_CALL):
        chunk = payloads[first : first + PER_CALL]
        await queries.enqueue(["noop"] * len(chunk), chunk, [0] * len(chunk))
    measured = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    await connection.close()
    return measured


async def work(dsn: str, jobs: int, batch_size: int) -> dict[str, float]:
    """From the first job's start to the last's."""
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(dsn)))
    starts: list[float] = []
    done = asyncio.Event()

    @queue.entrypoint("noop")
    async def noop(job: Job) -> None:
        json.loads(job.payload or b"")
        starts.append(time.perf_counter())
        if len(starts) == jobs:
            done.set()

    cpu = time.process_time()
    running = asyncio.create_task(queue.run(batch_size=batch_size, dequeue_timeout=timedelta(seconds=10)))
    await done.wait()
    queue.shutdown.set()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(running, END_SECONDS)  # what has run is acknowledged
    return {"seconds": starts[-1] - starts[0], "cpu_seconds": time.process_time() - cpu}


def main(phase: str, dsn: str, *numbers: str) -> None:
    phases = {"install": install, "enqueue": enqueue, "work": work}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(phases[phase](dsn, *(int(number) for number in numbers)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
