"""The only `while` in the worker's duties: take a step, then wait for news, for time, or for the end."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from gristmill import metrics
from gristmill.db import unavailable

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[int]]


async def keep_taking(
    name: str, step: Step, *, news: asyncio.Event, stop: asyncio.Event, idle_seconds: float
) -> None:
    """Take steps until `stop`. A step that did nothing, or broke, is followed by a wait of `idle_seconds` ± 50 %, or for `news`,
    which are of this loop alone."""
    stopped = asyncio.ensure_future(stop.wait())
    stopped.add_done_callback(lambda _: news.set())
    try:
        while not stop.is_set():
            news.clear()  # before the step looks, so that news arriving meanwhile is not lost
            done = await guarded(name, step)
            if done == 0 and not stop.is_set():
                await _wait(news, idle_seconds * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
    finally:
        stopped.cancel()


async def _wait(news: asyncio.Event, seconds: float) -> None:
    """On news, whoever waits goes on in the next round of the loop: a task for each event would take four more."""
    timer = asyncio.get_running_loop().call_later(seconds, news.set)
    try:
        await news.wait()
    finally:
        timer.cancel()


async def guarded(name: str, step: Step) -> int:
    """One step; 0 if it broke. Postgres being away is expected and said in one line."""
    try:
        done = await step()
    except Exception as error:
        metrics.loop_failed(name)
        if unavailable(error):
            log.warning("database lost", extra={"loop": name, "error": type(error).__name__})
        else:
            log.exception("step failed", extra={"loop": name})
        return 0
    metrics.loop_stepped(name)
    return done


async def first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Until one of the events is set, or the time, if there is one, is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
