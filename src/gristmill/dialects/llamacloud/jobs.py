"""What parse and extract jobs have in common: each is one item, of a batch over a directory or of one of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.dialects import base
from gristmill.dialects.llamacloud import words
from gristmill.dialects.llamacloud.making import Places, made
from gristmill.dialects.llamacloud.words import JobId
from gristmill.dialects.making import Making
from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.states import TERMINAL
from gristmill.store import batches, results
from gristmill.store.batches import Batch, Origin
from gristmill.store.keys import Key
from gristmill.store.results import Result

_ITEM = "file"  # the custom id of the one item of a job's own batch


@dataclass(frozen=True)
class Job:
    batch: Batch
    result: Result | None  # None: its batch has been made a moment ago

    @property
    def id(self) -> str:
        ordinal = self.result.ordinal if self.result else 0
        return words.job_id(self.batch.processor, self.batch.id, ordinal)

    @property
    def facts(self) -> dict[str, Any]:
        return base.facts(self.batch)

    @cached_property
    def output(self) -> dict[str, Any] | None:
        """What its processor answered; None unless it has succeeded."""
        if self.result is None or self.result.output is None:
            return None
        found: dict[str, Any] = orjson.loads(self.result.output)
        return found

    def view(self, key: Key) -> dict[str, Any]:
        """What both kinds show."""
        result, created = self.result, words.instant(self.batch.created_at)
        return {
            "id": self.id,
            "project_id": words.project_of(key),
            "status": words.job_status(result) if result else "PENDING",
            "error_message": words.message(result.error) if result else None,
            "created_at": created,
            "updated_at": (words.instant(result.processed_at or result.started_at) if result else None)
            or created,
        }


async def find(of: Parts, key: Key, processor: str, job_id: str) -> Job:
    """Raises NotFound, also for an item of a batch that was made elsewhere."""
    wanted = JobId.read(processor, job_id)
    async with of.database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, wanted.batch_id)
        ours = batch.dialect in (words.NAME, words.JOBS) and batch.processor == processor
        found = await results.window(connection, batch, wanted.ordinal, 1) if ours else []
    if not found:
        raise NotFound("no such job")
    return Job(batch, found[0])


async def input_of(of: Parts, job: Job) -> dict[str, Any]:
    """What it reads: a `file_id`, or a `source` with its `source_type`."""
    assert job.result is not None
    async with of.database.connection() as connection:
        _, text, _ = await results.one(connection, job.batch, job.result.custom_id)
    found: dict[str, Any] = orjson.loads(text)
    return found


async def create(
    making: Making,
    processor: str,
    chosen: dict[str, Any],
    given: dict[str, Any],
    facts: str,
    view: Callable[[Job], dict[str, Any]],
    places: Places,
) -> Response:
    """`chosen`: a `config`, or a `configuration_id`. `given`: the item's input."""
    body = {"processor": processor, **chosen, "requests": [{"custom_id": _ITEM, "input": given}]}
    origin = Origin(words.JOBS, facts=facts)
    return await made(
        making, body, lambda new: replace(new, origin=origin), lambda batch: view(Job(batch, None)), places
    )


async def cancel(request: Request, key: Key, processor: str, job_id: str) -> Job:
    """Raises Conflict for a job that has ended, and for one of a batch: that is cancelled as a whole."""
    await base.ignore_body(request)
    of = parts(request)
    job = await find(of, key, processor, job_id)
    if job.batch.dialect != words.JOBS:
        raise Conflict("a job of a batch cannot be cancelled alone: cancel the batch", code="job_of_batch")
    await base.cancelled(of, job.batch, words.not_cancelled)
    return await find(of, key, processor, job_id)


async def delete(request: Request, key: Key, processor: str, job_id: str) -> Response:
    """The job with its result. Raises Conflict while it runs, and for a job of a batch."""
    await base.ignore_body(request)
    of = parts(request)
    job = await find(of, key, processor, job_id)
    if job.batch.dialect != words.JOBS or job.batch.status not in TERMINAL:
        raise Conflict("only a job of its own that has ended can be deleted", code="wrong_status")
    async with of.database.transaction() as tx:
        await batches.delete(tx, key.tenant_id, job.batch.id)
    return as_json({"id": job.id, "deleted": True})
