"""procrastinate: many jobs deferred by one call, its async connector and worker, with a setting for how many run side by side.

https://procrastinate.readthedocs.io/en/stable/howto/basics/batch_defer.html and …/howto/basics/worker.html (`concurrency`)
"""

import asyncio

import procrastinate
from timing import Starts, main, measuring, parts, stopped, texts


def _app(dsn: str) -> procrastinate.App:
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=4, max_size=20))


async def install(dsn: str) -> None:
    async with _app(dsn).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def enqueue(dsn: str, jobs: str, *_: str) -> dict[str, float]:
    app = _app(dsn)
    deferrer = app.configure_task("noop", allow_unknown=True)
    arguments = [{"text": text} for text in texts(int(jobs))]
    measured: dict[str, float] = {}
    async with app.open_async():
        with measuring(measured):
            for chunk in parts(arguments):
                await deferrer.batch_defer_async(*chunk)
    return measured


async def work(dsn: str, jobs: str, concurrency: str) -> dict[str, float]:
    app = _app(dsn)
    starts = Starts(int(jobs))

    @app.task(name="noop")
    async def noop(text: str) -> None:
        starts.note()

    async with app.open_async():
        running = asyncio.create_task(
            app.run_worker_async(concurrency=int(concurrency), install_signal_handlers=False)
        )
        await starts.all.wait()
        await stopped(running)
    return starts.measured()


if __name__ == "__main__":
    main(install, enqueue, work)
