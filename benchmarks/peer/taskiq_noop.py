"""taskiq on Redis: `stream` acknowledges what has run, `list` does not and may lose it
(https://github.com/taskiq-python/taskiq-redis#brokers); as many tasks and prefetched messages at once as the number behind it
(`--max-async-tasks`, `--max-prefetch`: https://taskiq-python.github.io/guide/cli.html). No result is kept.
"""

import asyncio
import logging

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisStreamBroker
from timing import Starts, main, measuring, parts, stopped, texts

AT_ONCE = 100


def _broker(url: str, kind: str) -> ListQueueBroker | RedisStreamBroker:
    of = ListQueueBroker if kind == "list" else RedisStreamBroker
    return of(url=url, socket_timeout=None)  # the client's default of 5 s ends a worker that waits


async def install(url: str) -> None:
    """Nothing is needed."""


async def enqueue(url: str, jobs: str, setting: str) -> dict[str, float]:
    broker = _broker(url, setting.split()[0])
    measured: dict[str, float] = {}

    @broker.task(task_name="noop")
    async def noop(text: str) -> None: ...

    await broker.startup()
    with measuring(measured):
        for chunk in parts(texts(int(jobs)), AT_ONCE):
            await asyncio.gather(*(noop.kiq(text) for text in chunk))
    await broker.shutdown()
    return measured


async def work(url: str, jobs: str, setting: str) -> dict[str, float]:
    logging.disable(logging.CRITICAL)
    kind, number = setting.split()
    broker = _broker(url, kind)
    starts = Starts(int(jobs))

    @broker.task(task_name="noop")
    async def noop(text: str) -> None:
        starts.note()

    broker.is_worker_process = True
    await broker.startup()
    running = asyncio.create_task(
        run_receiver_task(broker, max_async_tasks=int(number), max_prefetch=int(number))
    )
    await starts.all.wait()
    await stopped(running)
    await broker.shutdown()
    return starts.measured()


if __name__ == "__main__":
    main(install, enqueue, work)
