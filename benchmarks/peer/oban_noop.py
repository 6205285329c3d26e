"""Oban for Python: many jobs by one `enqueue_many` ("more efficient", says its docstring), and a queue's limit as the setting
(https://github.com/oban-bg/oban-py/blob/main/docs/defining_queues.md: jobs that wait may have a higher one).
"""

from oban import Oban, worker
from oban.schema import install as install_schema
from timing import Starts, main, measuring, parts, texts

starts = Starts(0)


@worker(queue="default")
class Noop:
    async def process(self, job) -> None:  # type: ignore[no-untyped-def]
        starts.note()


async def install(dsn: str) -> None:
    pool = await Oban.create_pool(dsn)
    await install_schema(pool)
    await pool.close()


async def enqueue(dsn: str, jobs: str, *_: str) -> dict[str, float]:
    measured: dict[str, float] = {}
    pool = await Oban.create_pool(dsn)
    async with Oban(pool=pool) as oban:
        with measuring(measured):
            for chunk in parts(texts(int(jobs))):
                await oban.enqueue_many([Noop.new({"text": text}) for text in chunk])
    await pool.close()
    return measured


async def work(dsn: str, jobs: str, limit: str) -> dict[str, float]:
    global starts
    starts = Starts(int(jobs))
    pool = await Oban.create_pool(dsn)
    oban = Oban(pool=pool, queues={"default": int(limit)})
    await oban.start()
    await starts.all.wait()
    await oban.stop()
    await pool.close()
    return starts.measured()


if __name__ == "__main__":
    main(install, enqueue, work)
