"""Tasks of KooSearch made, and made again. What of the files cannot be used is left out and counted, as it is there."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, create, storing
from gristmill.api.auth import caller
from gristmill.api.configurations import named
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import uuid_of
from gristmill.dialects.koosearch.words import NAME, PREFIX, PROCESSORS, RETRYING, TaskType, check_ids
from gristmill.domain.errors import Conflict
from gristmill.intake.draft import MAX_ITEMS
from gristmill.store import collections, files, quotas, retries
from gristmill.store.keys import Key
from gristmill.store.origins import Origin
from gristmill.store.retries import Choice

MAX_FILES = 10_000
_MAX_BYTES = 2 * 1024 * 1024  # so many ids, with room
_NAME_CHARACTERS = 255

router = APIRouter(include_in_schema=False)

FileIds = list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]]


class TaskContext(BaseModel):
    is_inherit_parser: bool | None = None


class TasksCreate(BaseModel):
    """What else KooSearch's clients send is passed over."""

    task_type: Literal["QA", "DELETE_TABLES", "TABLE_EXTRACTION", "RETRY_FILES"]
    file_ids: Annotated[FileIds, Field(min_length=1, max_length=MAX_FILES)]
    task_context: TaskContext | None = None


class FilesRetry(BaseModel):
    file_ids: Annotated[FileIds, Field(min_length=1, max_length=MAX_FILES)]
    parser: Literal["inherit", "latest"] | None = None


@dataclass(slots=True)
class _Work:
    """One kind of work for some files: `kind` is what a create says of it."""

    kind: dict[str, Any]
    requests: list[dict[str, Any]] = field(default_factory=list)

    def add(self, file_id: str, given: dict[str, Any]) -> None:
        self.requests.append({"custom_id": file_id, "input": given})


@router.post(PREFIX + "/tasks")
async def create_tasks(request: Request, project_id: str, application_id: str, repo_id: str) -> Response:
    key = await caller(request, "batches:write")
    check_ids(project_id, application_id, repo_id)
    given = await body.read_model(request, TasksCreate, _MAX_BYTES)
    of, kind = parts(request), TaskType(given.task_type)
    inherits = bool(given.task_context and given.task_context.is_inherit_parser)
    file_ids = _canonical(given.file_ids)
    if kind is TaskType.RETRY_FILES:
        works = await _again(of, key, repo_id, file_ids, inherits)
        created = len({one["custom_id"] for work in works for one in work.requests})
    elif kind is TaskType.DELETE_TABLES:
        works = [await _deletions(of, key, repo_id, file_ids)]
        created = len(works[0].requests)
    else:
        works = [await _of_files(of, key, repo_id, kind, file_ids)]
        created = len(works[0].requests)
    marked = {"metadata": RETRYING} if kind is TaskType.RETRY_FILES else {}
    await _store(of, key, works, {"collection": repo_id, **marked}, {"is_inherit_parser": inherits})
    return as_json({"total_count": len(given.file_ids), "created_count": created})


@router.put(PREFIX + "/files/retry")
async def retry_files(request: Request, project_id: str, application_id: str, repo_id: str) -> Response:
    """The failed tasks of these files run again, under their ids and as they were configured."""
    key = await caller(request, "batches:write")
    check_ids(project_id, application_id, repo_id)
    given = await body.read_model(request, FilesRetry, _MAX_BYTES)
    of, file_ids = parts(request), _canonical(given.file_ids)
    chosen = defaultdict[Any, list[str]](list)
    retried: set[str] = set()
    async with of.database.transaction(longest_seconds=2 * retries.MOVE_SECONDS) as tx:
        found = await collections.failed(tx, key.tenant_id, repo_id, file_ids, list(PROCESSORS.values()))
        for one in found:
            chosen[one.batch_id].append(one.custom_id)
        for batch_id, custom_ids in sorted(chosen.items()):
            with suppress(Conflict):  # somebody else has just retried it
                await retries.retry(tx, key.tenant_id, batch_id, Choice(custom_ids=custom_ids))
                retried.update(custom_ids)
        await quotas.hold(tx, key.tenant_id, of.quotas)  # they are among them by now
    of.wake()
    return as_json({"total_count": len(given.file_ids), "retried_count": len(retried)})


def _canonical(file_ids: Sequence[str]) -> list[str]:
    """Each once, and only what can be the id of a file here."""
    found = (uuid_of(one) for one in file_ids)
    return list(dict.fromkeys(str(one) for one in found if one is not None))


async def _of_files(of: Parts, key: Key, repo_id: str, kind: TaskType, file_ids: Sequence[str]) -> _Work:
    wanted = [one for one in map(uuid_of, file_ids) if one is not None]
    async with of.database.engine.connect() as connection:
        known = await files.among(connection, key.tenant_id, wanted)
    work = _Work(await _configured(of, key, repo_id, PROCESSORS[kind]))
    for file_id in wanted:
        if file_id in known:
            name = known[file_id].filename[:_NAME_CHARACTERS]
            work.add(str(file_id), {"file_id": str(file_id), "filename": name})
    return work


async def _deletions(of: Parts, key: Key, repo_id: str, file_ids: Sequence[str]) -> _Work:
    """For files that had tables extracted in this knowledge base, whether the file is still there or not."""
    extraction = PROCESSORS[TaskType.TABLE_EXTRACTION]
    async with of.database.connection() as connection:
        known = await collections.names(connection, key.tenant_id, repo_id, file_ids, extraction)
    work = _Work({"processor": PROCESSORS[TaskType.DELETE_TABLES], "config": {"collection": repo_id}})
    for file_id in file_ids:
        if file_id in known:
            work.add(file_id, {"file_id": file_id, "filename": known[file_id] or file_id})
    return work


async def _again(of: Parts, key: Key, repo_id: str, file_ids: Sequence[str], inherits: bool) -> list[_Work]:
    """What failed last of these files as new tasks, configured as it was, or as it would be now."""
    async with of.database.connection() as connection:
        found = await collections.failed(
            connection, key.tenant_id, repo_id, file_ids, list(PROCESSORS.values())
        )
    works: dict[tuple[str, str], _Work] = {}
    for one in found:
        at = (one.processor, one.config if inherits else "")
        if at not in works:
            as_it_was = {"processor": one.processor, "config": orjson.loads(one.config)}
            deletes = one.processor == PROCESSORS[TaskType.DELETE_TABLES]
            latest = as_it_was if inherits or deletes else await _configured(of, key, repo_id, one.processor)
            works[at] = _Work(latest)
        works[at].add(one.custom_id, orjson.loads(one.input))
    return list(works.values())


async def _configured(of: Parts, key: Key, repo_id: str, processor: str) -> dict[str, Any]:
    """The tenant's configuration that is called as the knowledge base, else the processor's defaults."""
    found = await named(of, key.tenant_id, processor, repo_id)
    return {"processor": processor} if found is None else {"configuration_id": found}


async def _store(
    of: Parts, key: Key, works: Sequence[_Work], common: dict[str, Any], facts: dict[str, Any]
) -> None:
    """All of it or nothing."""
    origin = Origin(NAME, facts=orjson.dumps(facts).decode())
    made = []
    for work in works:
        for first in range(0, len(work.requests), MAX_ITEMS):
            requests = work.requests[first : first + MAX_ITEMS]
            new, content = await create.new_batch(of, key, work.kind | common | {"requests": requests})
            made.append((replace(new, origin=origin), content))
    await storing.stored(of, made)
