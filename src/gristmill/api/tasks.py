"""Tasks: the requests of all batches as one list, for callers who think in documents and not in batches."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import pages, result_views
from gristmill.api.auth import caller
from gristmill.api.envelope import answer, as_json, fragment
from gristmill.api.openapi import LIST, READ, documented, enveloped, paged, parameter, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query, uuid_of
from gristmill.db import Transaction
from gristmill.domain.errors import NotFound
from gristmill.domain.states import ItemStatus
from gristmill.store import batches, checkpoints, tasks
from gristmill.store.results import one as one_result
from gristmill.store.tasks import Task, TaskFilters, TaskPage

MAX_PAGE = 65_535
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 10
_PAGE = ("page_num", "page_size")
_FILTERS = ("type", "status", "file_name", "collection", "created_by", "batch_id")
_METADATA = "metadata."
_ORDINAL_DIGITS = 7  # a batch has at most a million requests

router = APIRouter(prefix="/api/v1/tasks", tags=["Tasks"])


def view(task: Task) -> dict[str, Any]:
    return {
        "id": f"{task.batch_id}-{task.ordinal}",
        "batch_id": task.batch_id,
        "custom_id": task.custom_id,
        "type": task.processor,
        "status": task.status,
        "file_name": task.name,
        "collection": task.collection,
        "created_by": task.created_by,
        "progress": task.progress,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "processed_at": task.processed_at,
        "error_code": task.code,
        "error_message": orjson.loads(task.error)["message"] if task.error else None,
    }


def _listed() -> dict[str, Any]:
    schema = paged(ref("TaskAnswer"))
    schema["properties"]["summary"] = ref("TaskSummary")
    schema["required"].append("summary")
    return schema


@router.get(
    "",
    summary="List tasks",
    responses=responses(*LIST),
    openapi_extra=documented(
        parameter(
            "page_num", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1}, "Which page"
        ),
        parameter(
            "page_size",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE},
            "Tasks per page",
        ),
        parameter("type", {"type": "string"}, "Only tasks of this processor"),
        parameter("processor", {"type": "string"}, "The same as type"),
        parameter("status", {"enum": [status.value for status in ItemStatus]}, "Only tasks in this status"),
        parameter(
            "file_name", {"type": "string"}, "Only tasks with this in the name of their file, in either case"
        ),
        parameter("collection", {"type": "string"}, "Only tasks of batches of this collection"),
        parameter("created_by", {"type": "string"}, "Only tasks made with the API key of this name"),
        parameter("batch_id", {"type": "string", "format": "uuid"}, "Only tasks of this batch"),
        parameter(
            "metadata.<key>",
            {"type": "string"},
            "Only tasks of batches with this value; may be given for several keys",
        ),
        answer=_listed(),
    ),
)
async def list_tasks(request: Request) -> Response:
    """The newest batch first, within a batch in the order of its requests. `summary` counts what the filters match;
    its counts by status leave the filter on status out. A page past the end is empty and has the same totals. A search
    by file name that takes longer than 3 seconds is refused: then say more about the batches."""
    key = await caller(request, "batches:read")
    query = Query(request, (*_PAGE, *_FILTERS, "processor"), prefix=_METADATA)
    number = query.integer("page_num", 1, MAX_PAGE, 1)
    size = query.integer("page_size", 1, MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE)
    filters = _filters(query)
    query.check()
    async with parts(request).database.connection() as connection:
        page = await tasks.page(connection, key.tenant_id, filters, limit=size, offset=(number - 1) * size)
        stages = await _stages(connection, page.tasks)
    return as_json(
        {
            "data": [view(task) | stage for task, stage in zip(page.tasks, stages, strict=True)],
            "pagination": _pagination(request, query, number, size, page.total),
            "summary": _summary(page),
            "message": None,
            "error_code": 0,
        }
    )


async def _stages(connection: Transaction, found: Sequence[Task]) -> list[dict[str, Any]]:
    """What each task shows of its stage; {}: its processor has none."""
    staged = {task.processor: result_views.staged(task.processor) for task in found}
    places = [(task.batch_id, task.ordinal) for task in found if staged[task.processor]]
    saved = await checkpoints.of_items(connection, places) if places else {}
    return [
        {}
        if (processor := staged[task.processor]) is None
        else result_views.stage_view(task.status, saved.get((task.batch_id, task.ordinal)), processor)
        for task in found
    ]


def _filters(query: Query) -> TaskFilters:
    kind, processor = query.text("type"), query.text("processor")
    if kind is not None and processor is not None:
        query.wrong("processor", "repeated_parameter", "give either type or processor, not both")
    pairs = [name for name in query.values if name.startswith(_METADATA)]
    return TaskFilters(
        status=query.choice("status", ItemStatus),
        processor=processor if kind is None else kind,
        name=query.text("file_name") or None,
        collection=query.text("collection"),
        created_by=query.text("created_by"),
        batch_id=query.uuid("batch_id"),
        metadata={name.removeprefix(_METADATA): query.text(name, 512) or "" for name in pairs},
    )


def _summary(page: TaskPage) -> dict[str, int]:
    return {
        "total": page.total,
        "pending": page.counts[ItemStatus.PENDING],
        "running": page.counts[ItemStatus.PROCESSING],
        "success": page.counts[ItemStatus.SUCCESS],
        "failed": page.counts[ItemStatus.FAILED],
    }


def _pagination(request: Request, query: Query, number: int, size: int, total: int) -> dict[str, Any]:
    """The object of all lists; `limit` is the page_size, `current_page` the page_num."""
    last = -(-total // size)
    filters = {name: value for name, value in query.values.items() if name not in _PAGE}

    def link(page: int) -> str:
        text = urlencode({"page_num": page, "page_size": size, **filters}, quote_via=quote)
        return f"{pages.base_url(request)}{router.prefix}?{text}"

    return {
        "limit": size,
        "offset": (number - 1) * size,
        "total_records": total,
        "total_pages": last,
        "current_page": number,
        "next_page": link(number + 1) if number < min(last, MAX_PAGE) else None,
        "prev_page": link(number - 1) if number > 1 else None,
        "next_cursor": None,
    }


@router.get(
    "/{task_id}",
    summary="Get a task",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("TaskDetail"))),
)
async def get_task(request: Request, task_id: str) -> Response:
    """With its input, its result, and its earlier attempts. The id is that of its batch, a hyphen, and its place in it."""
    key = await caller(request, "batches:read")
    Query(request, ()).check()
    batch_id, ordinal = id_of(task_id)
    async with (
        parts(request).database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        task = await tasks.one(connection, key.tenant_id, batch_id, ordinal)
        batch = await batches.get(connection, key.tenant_id, batch_id)
        result, text, attempts = await one_result(connection, batch, task.custom_id)
        [stage] = await _stages(connection, [task])
    detail = {"input": fragment(text), "attempts": [result_views.attempt_view(one) for one in attempts]}
    return answer(view(task) | result_views.view(result) | stage | detail)


def id_of(task_id: str) -> tuple[UUID, int]:
    """Raises NotFound for what cannot be an id, such as a place with zeros before it."""
    batch_id, _, place = task_id.rpartition("-")
    found = uuid_of(batch_id)
    whole = place.isascii() and place.isdecimal() and len(place) <= _ORDINAL_DIGITS
    if found is None or not whole or place != str(int(place)):
        raise NotFound("no such task")
    return found, int(place)
