"""arq: `max_jobs` side by side is its setting, results are not kept, and the queue is looked at every 10 ms instead of 500
(https://arq-docs.helpmanual.io/#arq.worker.Worker). It has no call for many jobs.
"""

import asyncio
import logging

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func
from timing import Starts, main, measuring, parts, stopped, texts

AT_ONCE = 100


async def install(url: str) -> None:
    """Nothing is needed."""


async def enqueue(url: str, jobs: str, *_: str) -> dict[str, float]:
    measured: dict[str, float] = {}
    pool = await create_pool(RedisSettings.from_dsn(url))
    with measuring(measured):
        for chunk in parts(texts(int(jobs)), AT_ONCE):
            await asyncio.gather(*(pool.enqueue_job("noop", text) for text in chunk))
    await pool.aclose()
    return measured


async def work(url: str, jobs: str, max_jobs: str) -> dict[str, float]:
    logging.disable(logging.CRITICAL)
    starts = Starts(int(jobs))

    async def noop(context: dict[str, object], text: str) -> None:
        starts.note()

    worker = Worker(
        [func(noop, name="noop", keep_result=0)],
        redis_settings=RedisSettings.from_dsn(url),
        max_jobs=int(max_jobs),
        poll_delay=0.01,
        handle_signals=False,
        log_results=False,
    )
    running = asyncio.create_task(worker.async_run())
    await starts.all.wait()
    await worker.close()
    await stopped(running)
    return starts.measured()


if __name__ == "__main__":
    main(install, enqueue, work)
