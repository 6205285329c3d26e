"""What parse and extract jobs have in common: each is one item, of a batch over a directory or of one of its own."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.dialects import base
from gristmill.dialects.llamacloud import hooks, pages, words
from gristmill.dialects.llamacloud.hooks import Chosen, Hooked
from gristmill.dialects.llamacloud.making import Places, made
from gristmill.dialects.llamacloud.words import JobId
from gristmill.dialects.making import Making
from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.states import TERMINAL
from gristmill.store import batches, results, transitions
from gristmill.store.batches import Batch, BatchFilters
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch
from gristmill.store.origins import Origin
from gristmill.store.results import Result

MOST_LISTED = 100  # at a time: each is read with its result
_ITEM = "file"  # the custom id of the one item of a job's own batch


class Status(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    THROTTLED = "THROTTLED"  # no job is shown as that


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
    told: Sequence[Chosen],
) -> Response:
    """`chosen`: a `config`, or a `configuration_id`. `given`: the item's input. `told`: its webhooks."""
    requests = [{"custom_id": _ITEM, "input": given}]
    webhooks = [one.hook.canonical() for one in told]
    body = {"processor": processor, **chosen, "requests": requests, "webhooks": webhooks}
    origin = Origin(words.JOBS, facts=facts)

    def finished(new: NewBatch) -> NewBatch:
        return hooks.worded(replace(new, origin=origin), told, words.job_id(processor, new.id, 0))

    return await made(
        making, body, finished, lambda batch: view(Job(batch, None)), {**places, **hooks.places(told)}
    )


async def webhooks(of: Parts, key: Key, processor: str, given: Hooked) -> list[Chosen]:
    """Of a job, whose events are those of its product. Raises Invalid, also for a URL that may not be called."""
    found = await hooks.chosen(of, key, given, hooks.PRODUCTS[processor])
    for one in found:
        hooks.check(of, one.hook.webhook_url, hooks.place_of_url(one))
    return found


# --- lists ----------------------------------------------------------------------------------------------------


async def listed(
    request: Request,
    key: Key,
    processor: str,
    view: Callable[[Job], dict[str, Any]],
    others: Mapping[str, Callable[[Batch], str | None]] = MappingProxyType({}),
) -> Response:
    """Jobs of their own, newest first; those of batches only by their ids. `others`: more filters, and what each looks at."""
    query = Query(request, (*pages.PARAMETERS, *pages.PERIOD, "status", *others), lenient=True)
    status = query.choice("status", Status)
    after, before = pages.period(query)
    wanted = {name: value for name in others if (value := query.text(name)) is not None}
    page = pages.asked(request, query, key, f"llamacloud/{processor}")
    page = replace(page, size=min(page.size, MOST_LISTED))
    of, job_ids = parts(request), request.query_params.getlist("job_ids")
    if job_ids:
        return pages.listing(
            request, key, page, [view(one) for one in await _named(of, key, processor, job_ids)], None
        )
    mine = BatchFilters(dialect=words.JOBS, processor=processor, created_after=after, created_before=before)

    async def fetch(limit: int, before: UUID | None) -> Sequence[Batch]:
        async with of.database.connection() as connection:
            return (await batches.page(connection, key.tenant_id, mine, limit=limit, before=before))[0]

    def matches(batch: Batch) -> bool:
        same = all(others[name](batch) == value for name, value in wanted.items())
        return same and status in (None, words.only_status(batch))

    chosen = matches if wanted or status else None
    shown, last = await pages.List(fetch, lambda batch: batch.id).page(page, chosen)
    async with of.database.connection() as connection:
        found = [Job(batch, (await results.window(connection, batch, 0, 1))[0]) for batch in shown]
    return pages.listing(request, key, page, [view(job) for job in found], last)


async def _named(of: Parts, key: Key, processor: str, job_ids: Sequence[str]) -> list[Job]:
    found = []
    for one in dict.fromkeys(job_ids[:MOST_LISTED]):
        with suppress(NotFound):
            found.append(await find(of, key, processor, one))
    return sorted(found, key=lambda job: job.batch.id, reverse=True)


# --- end ------------------------------------------------------------------------------------------------------


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
        await transitions.delete(tx, key.tenant_id, job.batch.id)
    return as_json({"id": job.id, "deleted": True})
