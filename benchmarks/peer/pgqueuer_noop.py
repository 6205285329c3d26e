"""pgqueuer: `batch_size` is its setting for speed, and its recommended autovacuum settings are applied.

https://github.com/janbjorge/pgqueuer/blob/main/docs/guides/performance-tuning.md
"""

import asyncio
import json
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from timing import END_SECONDS, Starts, main, measuring, parts, texts


async def install(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    await connection.close()


async def enqueue(dsn: str, jobs: str, *_: str) -> dict[str, float]:
    payloads = [json.dumps({"text": text}).encode() for text in texts(int(jobs))]
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    measured: dict[str, float] = {}
    with measuring(measured):
        for chunk in parts(payloads):
            await queries.enqueue(["noop"] * len(chunk), list(chunk), [0] * len(chunk))
    await connection.close()
    return measured


async def work(dsn: str, jobs: str, batch_size: str) -> dict[str, float]:
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(dsn)))
    starts = Starts(int(jobs))

    @queue.entrypoint("noop")
    async def noop(job: Job) -> None:
        json.loads(job.payload or b"")
        starts.note()

    running = asyncio.create_task(
        queue.run(batch_size=int(batch_size), dequeue_timeout=timedelta(seconds=10))
    )
    await starts.all.wait()
    queue.shutdown.set()
    await asyncio.wait([running], timeout=END_SECONDS)
    return starts.measured()


if __name__ == "__main__":
    main(install, enqueue, work)
