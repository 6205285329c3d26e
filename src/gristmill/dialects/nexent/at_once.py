"""Work that the caller waits for: a batch of one request, ahead of others, and what came of it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from gristmill.api import create, storing
from gristmill.api.parts import Parts
from gristmill.dialects.nexent.words import NAME
from gristmill.domain.errors import Conflict, NotFound, Unavailable
from gristmill.domain.states import TERMINAL, ItemStatus
from gristmill.store import results, transitions
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.origins import Origin

LONGEST_SECONDS = 300
_GRACE_SECONDS = 5.0  # so that it is the wait that ends first, and not the item by its own time limit


@dataclass(frozen=True, slots=True)
class Done:
    """`code` and `error`: as results show them, where it failed. `seconds`: of the run itself."""

    task_id: str
    code: int | None
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    seconds: float


class TooLate(Exception):
    """Not done in time; it was cancelled."""


async def run(
    of: Parts, key: Key, processor: str, given: dict[str, Any], config: dict[str, Any], seconds: float
) -> Done:
    """Raises TooLate; Invalid for what cannot be an input; Unavailable if the service ends meanwhile."""
    limit = min(max(seconds, 1), LONGEST_SECONDS)
    body = {
        "processor": processor,
        "config": config,
        "requests": [{"custom_id": "0", "input": given}],
        "priority": 100,
        "max_attempts": 1,  # whoever waits asks again sooner than we would
        "item_timeout_seconds": limit + _GRACE_SECONDS,
        "deadline_seconds": max(round(limit), 10),
        "retention_days": 1,  # no longer than it must be: whoever waited has had the answer, or none will come
    }
    new, content = await create.new_batch(of, key, body)
    [batch] = await storing.stored(of, [(replace(new, origin=Origin(NAME)), content)])
    try:
        batch = await of.watch.changed(batch, limit, of.draining)
    except asyncio.CancelledError:
        await asyncio.shield(_cancel(of, batch))  # nobody waits for it any more
        raise
    if batch.status not in TERMINAL:
        await _cancel(of, batch)
        if of.draining.is_set():
            raise Unavailable("the service is about to end; try again soon")
        raise TooLate
    return await _done(of, batch)


async def _cancel(of: Parts, batch: Batch) -> None:
    with suppress(Conflict, NotFound):  # it has just ended
        async with of.database.transaction() as tx:
            await transitions.cancel(tx, batch.tenant_id, batch.id)
        of.wake()


async def _done(of: Parts, batch: Batch) -> Done:
    async with of.database.connection() as connection:
        [result] = await results.window(connection, batch, 0, 1)
    took = 0.0
    if result.started_at is not None and result.processed_at is not None:
        took = (result.processed_at - result.started_at).total_seconds()
    succeeded = result.status is ItemStatus.SUCCESS
    return Done(
        f"{batch.id}-0",
        result.code,
        orjson.loads(result.output) if succeeded and result.output else None,
        None if succeeded else orjson.loads(result.error or "{}"),
        round(took, 3),
    )


async def forget(of: Parts, tenant_id: UUID, done: Done) -> None:
    """What has been answered need not be kept: its batch is deleted."""
    batch_id = UUID(done.task_id.removesuffix("-0"))
    with suppress(Conflict, NotFound):
        async with of.database.transaction() as tx:
            await transitions.delete(tx, tenant_id, batch_id)
