"""`gristmill serve` and `gristmill worker`: run until told to stop, then leave in order."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import typer

import gristmill.log
from gristmill.cli import database, garbage
from gristmill.cli.refusal import Refusal
from gristmill.cli.server import Server, bind
from gristmill.cli.service import Service, lone_worker, service
from gristmill.cli.stop import Stop
from gristmill.embedded.postgres import running_url
from gristmill.settings import Settings
from gristmill.worker import Worker


@dataclass(frozen=True, slots=True)
class Ready:
    """The server takes requests at `url`, by these settings. `new_key` was made just now and is shown once."""

    url: str
    settings: Settings
    new_key: str | None
    with_worker: bool


async def announce(ready: Ready) -> bool:
    typer.echo(f"Gristmill serves on {ready.url} (documentation at {ready.url}/docs)")
    if ready.new_key:
        typer.echo(f"API key, shown only this once: {ready.new_key}")
    if ready.with_worker and ready.settings.llm_base_url is None:
        typer.echo("No model: set GRISTMILL_LLM_BASE_URL and GRISTMILL_LLM_MODEL for agents to answer.")
    return True


async def serve(
    settings: Settings, *, with_worker: bool, ready: Callable[[Ready], Awaitable[bool]] = announce
) -> None:
    """Until a signal, or until `ready`, awaited while it serves, is over and answers False or raises."""
    gristmill.log.configure(settings.log_format, settings.log_level)
    with bind(settings.host, settings.port) as listening:
        settings = settings.model_copy(update={"port": listening.getsockname()[1]})
        async with service(settings, with_worker=with_worker) as running:
            stop = Stop()
            server = Server(running.app, drain_seconds=settings.drain_seconds)
            serving = asyncio.create_task(server.serve([listening]))
            garbage.set_aside()
            told = Ready(_url(settings), settings, running.new_key, with_worker)
            try:
                await _until_asked(stop, serving, asyncio.ensure_future(ready(told)))
            finally:
                await _leave(settings, running, server, serving, stop)


async def work(settings: Settings) -> None:
    if settings.database_url is None and running_url(database.folder(settings)) is None:
        raise Refusal(
            "a worker of its own needs a database that is running: set GRISTMILL_DATABASE_URL, or start "
            "`gristmill serve` on the same GRISTMILL_DATA_DIR first"
        )
    gristmill.log.configure(settings.log_format, settings.log_level)
    async with lone_worker(settings) as worker:
        stop = Stop()
        garbage.set_aside(garbage.YOUNG_OF_WORKER)
        typer.echo("Gristmill's worker is at work.")
        await stop.asked.wait()
        hurrying = asyncio.create_task(_hurry(stop, worker, None))
        await worker.drain(settings.drain_seconds)
        await _cancel(hurrying)


async def _until_asked(stop: Stop, serving: "asyncio.Task[None]", visit: "asyncio.Future[bool]") -> None:
    asked = asyncio.create_task(stop.asked.wait())
    try:
        await asyncio.wait((asked, serving, visit), return_when=asyncio.FIRST_COMPLETED)
        if visit.done() and visit.result():
            await asyncio.wait((asked, serving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(asked, visit)


async def _leave(
    settings: Settings, running: Service, server: Server, serving: "asyncio.Task[None]", stop: Stop
) -> None:
    """The server takes no more connections and ends what it answers, while the worker ends what it runs."""
    hurrying = asyncio.create_task(_hurry(stop, running.worker, server))
    running.app.state.parts.draining.set()  # ends long polls
    server.should_exit = True
    if running.worker is not None:
        await running.worker.drain(settings.drain_seconds)
    await serving
    await _cancel(hurrying)


async def _hurry(stop: Stop, worker: Worker | None, server: Server | None) -> None:
    await stop.hurried.wait()
    if worker is not None:
        worker.hurry()
    if server is not None:
        server.force_exit = True


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
