"""Tasks of Nexent as they are: lists without pages, one in detail, and its two statuses made one."""

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import parts
from gristmill.api.tasks import id_of
from gristmill.db import Transaction
from gristmill.dialects.nexent.words import NAME, PROCESS_SUFFIX, Chain, custom_state
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.processors.pipeline import Pipeline
from gristmill.store import batches, checkpoints, results, tasks
from gristmill.store.keys import Key
from gristmill.store.tasks import Task, TaskFilters

MAX_FILES = 1000  # of all indices, the newest
MAX_FILES_OF_AN_INDEX = 10_000  # Nexent reads the state of every file of an index here
_MANY = 500  # files whose rows take longer to be written than others should wait
_LISTED = (
    "id", "task_name", "index_name", "path_or_url", "original_filename", "status", "created_at", "updated_at", "error",
)  # fmt: skip
_MAX_STATE_BYTES = 64 * 1024

router = APIRouter(include_in_schema=False)


@router.get("/tasks")
async def list_tasks(request: Request) -> Response:
    """A row for each stage that a file has begun or waits for: the newest files, their rows together."""
    key = await caller(request, "batches:read")
    chains = await _chains(request, key, None, MAX_FILES)

    def answered() -> Response:
        rows = [{name: row[name] for name in _LISTED} for chain in chains for row in chain.rows]
        return as_json({"tasks": rows})

    return await _written(answered, chains)


@router.get("/tasks/indices/{index_name}")
async def list_index(request: Request, index_name: str) -> Response:
    key = await caller(request, "batches:read")
    chains = await _chains(request, key, index_name, MAX_FILES_OF_AN_INDEX)

    def answered() -> Response:
        return as_json([row for chain in chains for row in chain.rows])

    return await _written(answered, chains)


async def _written(answered: Any, chains: list[Chain]) -> Response:
    response: Response = answered() if len(chains) < _MANY else await asyncio.to_thread(answered)
    return response


async def _chains(request: Request, key: Key, index_name: str | None, most: int) -> list[Chain]:
    wanted = TaskFilters(collection=index_name, processors=[Pipeline.name], dialect=NAME)
    if index_name is not None and "\0" in index_name:
        return []
    async with parts(request).database.connection() as connection:
        page = await tasks.page(connection, key.tenant_id, wanted, limit=most, offset=0)
        places = [(one.batch_id, one.ordinal) for one in page.tasks]
        inputs = await tasks.inputs(connection, places)
        saved = await checkpoints.of_items(connection, places)
    found = list(zip(page.tasks, places, strict=True))
    return [Chain.of(task, inputs[place], saved.get(place)) for task, place in found if place in inputs]


@router.get("/tasks/{task_id}/details")
async def get_details(request: Request, task_id: str) -> Response:
    """Of a chain, by the id that its create answered with, or of its first stage."""
    key = await caller(request, "batches:read")
    try:
        async with (
            parts(request).database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            chain, output = await _found(connection, key, task_id.removesuffix(PROCESS_SUFFIX))
    except NotFound:
        raise NotFound("Task not found") from None
    row = chain.rows[0] if task_id.endswith(PROCESS_SUFFIX) else chain.whole
    return as_json(row | _outcome(output) if output else row)


async def _found(connection: Transaction, key: Key, task_id: str) -> tuple[Chain, dict[str, Any] | None]:
    """With its output, once it has one. Raises NotFound, also for what was not made through here."""
    batch_id, ordinal = id_of(task_id)
    task: Task = await tasks.one(connection, key.tenant_id, batch_id, ordinal)
    batch = await batches.get(connection, key.tenant_id, batch_id)
    if batch.dialect != NAME or batch.processor != Pipeline.name:
        raise NotFound("no such task")
    [result] = await results.with_checkpoints(
        connection, batch, await results.window(connection, batch, ordinal, 1)
    )
    text = (await tasks.inputs(connection, [(batch_id, ordinal)]))[batch_id, ordinal]
    output = None if result.output is None else orjson.loads(result.output)
    return Chain.of(task, text, result.checkpoint), output


def _outcome(output: dict[str, Any]) -> dict[str, Any]:
    """Seconds of both stages; `es_result` is what the sink has taken, whatever it is."""
    count = output["chunks"]
    return {
        "chunks_count": count,
        "processing_time": output.get("processing_seconds"),
        "storage_time": output.get("forwarding_seconds"),
        "es_result": {"success": True, "total_indexed": count, "total_submitted": count},
    }


@router.post("/tasks/convert_state")
async def convert_state(request: Request) -> Response:
    await caller(request, "batches:read")
    given = await body.read_json(request, dict, _MAX_STATE_BYTES)
    states = [given.get(name) or "" for name in ("process_state", "forward_state")]
    for name, state in zip(("process_state", "forward_state"), states, strict=True):
        if not isinstance(state, str):
            raise Invalid([Problem(f"/{name}", "string_type", "Input should be a valid string")])
    return as_json({"state": custom_state(*states)})
