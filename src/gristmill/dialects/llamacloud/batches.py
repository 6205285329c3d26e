"""`/api/v2/batches`: a parse or extract job for each file that a directory has now."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.db import Transaction
from gristmill.dialects import base
from gristmill.dialects.llamacloud import configurations, hooks, pages, words
from gristmill.dialects.llamacloud.hooks import Hooked
from gristmill.dialects.llamacloud.making import MAX_BODY_BYTES, MAX_FILES, made, too_many_files
from gristmill.dialects.llamacloud.words import Lenient
from gristmill.dialects.making import Making
from gristmill.domain.states import TERMINAL, ItemStatus
from gristmill.intake import problems
from gristmill.store import batches, directories, tasks
from gristmill.store.batches import Batch, BatchFilters
from gristmill.store.keys import Key
from gristmill.store.origins import Origin
from gristmill.store.tasks import Task, TaskFilters

_PATH = "/api/v2/batches"
_SOURCE = (
    "source_directory_id"  # of the metadata that a batch gets: the canonical API shows it, lists filter by it
)
_FILTERS = (_SOURCE, "status", *pages.PERIOD)
_PLACES = {
    "/configuration_id": "/config/job/configuration_id",
    "/processor": "/config/job/type",
    "/source/directory_id": f"/{_SOURCE}",
}

router = APIRouter(include_in_schema=False)


class Job(Lenient):
    configuration_id: str
    type: Literal["parse_v2", "extract_v2"]


class Config(Lenient):
    job: Job


class BatchBody(Hooked):
    config: Config
    source_directory_id: str = Field(max_length=64)


class Status(StrEnum):
    PENDING = "PENDING"
    THROTTLED = "THROTTLED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


def view(key: Key, batch: Batch, results: Sequence[Task] | None = None) -> dict[str, Any]:
    return {
        "id": words.outward(words.BATCH, batch.id),
        "project_id": words.project_of(key),
        "source_directory_id": batch.metadata[_SOURCE],
        "config": {"job": {"configuration_id": batch.configuration_id, "type": words.TYPES[batch.processor]}},
        "status": words.batch_status(batch),
        "created_at": words.instant(batch.created_at),
        "updated_at": words.updated_at(batch),
        "results": None if results is None else [_result(one) for one in results],
    }


def _result(task: Task) -> dict[str, Any]:
    """A file whose turn never came has no job. What a job failed with is told by the job itself."""
    never = task.status is ItemStatus.FAILED and task.started_at is None
    job = words.job_id(task.processor, task.batch_id, task.ordinal)
    return {
        "source_directory_file_id": words.outward(words.DIRECTORY_FILE, task.custom_id),
        "error_message": words.message(task.error) if never else None,
        "job_reference": None if never else {"id": job, "type": words.TYPES[task.processor]},
    }


# --- create ---------------------------------------------------------------------------------------------------


@router.post(_PATH)
async def create_batch(request: Request) -> Response:
    """The configuration and the set of files are taken as they are now."""
    key = await caller(request, "batches:write")
    making = Making.begin(request, key, _PATH)
    given = problems.checked(BatchBody, await making.body(MAX_BODY_BYTES))
    if (before := await making.once.before()) is not None:
        return before
    of, job = parts(request), given.config.job
    directory_id = await _source(of, key, given.source_directory_id)
    found = await hooks.chosen(of, key, given, hooks.BATCHES)
    body = {
        "configuration_id": job.configuration_id,
        "processor": words.PROCESSORS[job.type],
        "source": {"directory_id": str(directory_id)},
        "metadata": {_SOURCE: words.outward(words.DIRECTORY, directory_id)},
        "webhooks": [one.hook.canonical() for one in found],
    }
    tier = await configurations.tier_of(of, key, job.configuration_id)
    origin = Origin(words.NAME, facts=words.facts(tier=tier))
    return await made(
        making,
        body,
        lambda new: hooks.worded(replace(new, origin=origin), found, words.outward(words.BATCH, new.id)),
        lambda batch: view(key, batch),
        {**_PLACES, **hooks.places(found)},
    )


async def _source(of: Parts, key: Key, text: str) -> UUID:
    """Raises NotFound; Invalid for a directory with too many files."""
    directory_id = words.inward(words.DIRECTORY, text)
    async with of.database.engine.connect() as connection:
        found = await directories.get(connection, key.tenant_id, directory_id)
    if found.files > MAX_FILES:
        raise too_many_files()
    return found.id


# --- read -----------------------------------------------------------------------------------------------------


@router.get(_PATH + "/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    """`results` are null until the batch has ended, and unless they are asked for."""
    key = await caller(request, "batches:read")
    wanted = "results" in pages.expanded(request)
    batch = await base.find(request, key, words.NAME, words.inward(words.BATCH, batch_id))
    results = None
    if wanted and batch.status in TERMINAL:
        async with parts(request).database.connection() as connection:
            results = await _results(connection, batch)
    return as_json(view(key, batch, results))


async def _results(connection: Transaction, batch: Batch) -> Sequence[Task]:
    """Without what they came to: that is the jobs' own."""
    of_batch = TaskFilters(batch_id=batch.id)
    page = await tasks.page(connection, batch.tenant_id, of_batch, limit=MAX_FILES, offset=0)
    return page.tasks


@router.get(_PATH)
async def list_batches(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "batches:read")
    query = Query(request, (*pages.PARAMETERS, *_FILTERS), lenient=True)
    status, filters = query.choice("status", Status), _filters(query)
    page = pages.asked(request, query, key, "llamacloud/batches")

    async def fetch(limit: int, before: UUID | None) -> Sequence[Batch]:
        async with parts(request).database.connection() as connection:
            found, _ = await batches.page(connection, key.tenant_id, filters, limit=limit, before=before)
        return found

    def wanted(batch: Batch) -> bool:
        return words.batch_status(batch) == status

    shown, last = await pages.List(fetch, lambda batch: batch.id).page(page, wanted if status else None)
    return pages.listing(request, key, page, [view(key, one) for one in shown], last)


def _filters(query: Query) -> BatchFilters:
    status, source = query.values.get("status"), query.text(_SOURCE)
    after, before = pages.period(query)
    return BatchFilters(
        dialect=words.NAME,
        statuses=() if status is None else words.STATUSES.get(status, ()),
        metadata={} if source is None else {_SOURCE: source},
        created_after=after,
        created_before=before,
    )


# --- cancel ---------------------------------------------------------------------------------------------------


@router.post(_PATH + "/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """What has ended keeps its results. Only a batch that has ended itself is a conflict: one that is about to be cancelled
    still is a running one in these words."""
    key = await caller(request, "batches:write")
    await base.ignore_body(request)
    batch = await base.find(request, key, words.NAME, words.inward(words.BATCH, batch_id))
    return as_json(view(key, await base.cancelled(parts(request), batch, words.not_cancelled)))
