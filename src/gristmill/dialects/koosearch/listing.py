"""The task query of seed 003, and its neighbours: what else is posted with a task, and what came of one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.tasks import MAX_PAGE, id_of
from gristmill.db import Transaction
from gristmill.dialects.base import facts
from gristmill.dialects.koosearch.words import (
    PREFIX,
    STATUS_OF,
    TaskStatus,
    TaskType,
    check_ids,
    filters,
    is_retry,
    type_of,
)
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.states import ItemStatus
from gristmill.store import batches, checkpoints, results, tasks
from gristmill.store.keys import Key
from gristmill.store.tasks import Task, TaskFilters, TaskPage

_PARAMETERS = ("page_size", "page_num", "task_type", "task_status", "file_name", "create_user")
_LARGE = 1000  # tasks on a page that take longer to be written than others should wait
_DETAILS = 1000  # documents that are told of one task: as many as can be posted at once

router = APIRouter(include_in_schema=False)
Progress = Mapping[tuple[UUID, int], Checkpoint]


@router.get(PREFIX + "/tasks")
async def list_tasks(request: Request, project_id: str, application_id: str, repo_id: str) -> Response:
    """Newest first. Totals leave the page out of account, the four counters the filter on the status as well."""
    key = await caller(request, "batches:read")
    check_ids(project_id, application_id, repo_id)
    query = Query(request, _PARAMETERS, lenient=True)
    size = query.integer("page_size", 1, MAX_PAGE, 10)
    number = query.integer("page_num", 1, MAX_PAGE, 1)
    wanted = _wanted(query, repo_id)
    query.check()
    async with parts(request).database.connection() as connection:
        page = await tasks.page(connection, key.tenant_id, wanted, limit=size, offset=(number - 1) * size)
        running = [(one.batch_id, one.ordinal) for one in page.tasks if one.status is ItemStatus.PROCESSING]
        progress = await checkpoints.of_items(connection, running) if running else {}
    if len(page.tasks) < _LARGE:
        return _answered(page, progress, size, number)
    return await asyncio.to_thread(_answered, page, progress, size, number)


def _wanted(query: Query, repo_id: str) -> TaskFilters:
    creator = query.text("create_user", 64)
    if creator == "":
        query.wrong("create_user", "string_too_short", "must be 1 to 64 characters")
    return filters(
        repo_id,
        query.choice("task_type", TaskType),
        query.choice("task_status", TaskStatus),
        query.text("file_name", 1024) or None,
        creator,
    )


def _answered(page: TaskPage, progress: Progress, size: int, number: int) -> Response:
    return as_json(
        {
            "total": page.total,
            "page_size": size,
            "page_num": number,
            "fail_count": page.counts[ItemStatus.FAILED],
            "success_count": page.counts[ItemStatus.SUCCESS],
            "running_count": page.counts[ItemStatus.PROCESSING],
            "pending_count": page.counts[ItemStatus.PENDING],
            "tasks": [_view(one, progress) for one in page.tasks],
        }
    )


def _view(task: Task, progress: Progress) -> dict[str, Any]:
    """`expires_at` belongs to kinds of tasks that this service has not: it is never there."""
    shown = {
        "id": f"{task.batch_id}-{task.ordinal}",
        "name": task.name or task.custom_id,
        "type": type_of(task),
        "status": STATUS_OF[task.status],
        "process": _process(task, progress.get((task.batch_id, task.ordinal))),
        "create_time": str(int(task.created_at.timestamp() * 1000)),
    }
    return shown | {"task_desc": orjson.loads(task.error)["message"]} if task.error else shown


def _process(task: Task, saved: Checkpoint | None) -> float:
    """0 to 1; exactly 1.0 only once it has ended."""
    if saved is None or not saved.total:
        return task.progress
    return min(saved.done / saved.total, 0.99)


@router.get(PREFIX + "/task-detail/{task_id}")
async def get_detail(
    request: Request, project_id: str, application_id: str, repo_id: str, task_id: str
) -> Response:
    """The documents that were posted together with this task's, its own among them."""
    key = await caller(request, "batches:read")
    check_ids(project_id, application_id, repo_id)
    async with _snapshot(request) as connection:
        task = await _find(connection, key, repo_id, task_id)
        batch = await batches.get(connection, key.tenant_id, task.batch_id)
        together = TaskFilters(batch_id=batch.id)
        page = await tasks.page(connection, key.tenant_id, together, limit=_DETAILS, offset=0)
    told = [{"id": one.custom_id, "name": one.name or one.custom_id} for one in page.tasks]
    inherits = is_retry(task) and facts(batch).get("is_inherit_parser", False)
    return as_json({"total": page.total, "task_detail": told, "is_inherit_parser": inherits})


@router.get(PREFIX + "/tasks/{task_id}")
async def download_output(
    request: Request, project_id: str, application_id: str, repo_id: str, task_id: str
) -> Response:
    """What the task has made, as a file of JSON: the pairs, or the tables."""
    key = await caller(request, "batches:read")
    check_ids(project_id, application_id, repo_id)
    async with _snapshot(request) as connection:
        task = await _find(connection, key, repo_id, task_id)
        batch = await batches.get(connection, key.tenant_id, task.batch_id)
        [result] = await results.window(connection, batch, task.ordinal, 1)
    if task.status is not ItemStatus.SUCCESS:
        raise Conflict(f"the task has no output: its status is {STATUS_OF[task.status]}", code="no_output")
    if result.output is None:
        raise NotFound("the output of this task has been deleted")
    named = {"Content-Disposition": f'attachment; filename="{task.batch_id}-{task.ordinal}.json"'}
    return Response(result.output, headers=named, media_type="application/json")


@asynccontextmanager
async def _snapshot(request: Request) -> AsyncIterator[Transaction]:
    async with (
        parts(request).database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield connection


async def _find(connection: Transaction, key: Key, repo_id: str, task_id: str) -> Task:
    """Raises NotFound, also for what is no task of this knowledge base."""
    batch_id, ordinal = id_of(task_id)
    task = await tasks.one(connection, key.tenant_id, batch_id, ordinal)
    of_repo = filters(repo_id)
    if task.collection != of_repo.collection or task.processor not in (of_repo.processors or ()):
        raise NotFound("no such task")
    return task
