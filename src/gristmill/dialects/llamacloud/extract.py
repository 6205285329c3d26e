"""`/api/v2/extract`: a document to JSON by a schema."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.dialects import base
from gristmill.dialects.llamacloud import files, jobs, parameters, words
from gristmill.dialects.llamacloud.hooks import Hooked
from gristmill.dialects.llamacloud.jobs import Job
from gristmill.dialects.llamacloud.making import MAX_BODY_BYTES
from gristmill.dialects.llamacloud.words import JOB
from gristmill.dialects.making import Making
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import problems
from gristmill.processors.extract import Extract
from gristmill.processors.parse import Parse
from gristmill.store.batches import Batch
from gristmill.store.keys import Key

_PATH = "/api/v2/extract"
_TYPE = "extract_v2"
_AT = "/configuration"
_PLACES = {ours: _AT + theirs for ours, theirs in parameters.PLACES.items()} | {
    "/processor": "/configuration_id",
    "/configuration_id": "/configuration_id",
    "/requests/0/input": "/file_input",
}
# First what is longer: a configuration_id begins like a config.
_PLACES = dict(sorted(_PLACES.items(), key=lambda pair: -len(pair[0])))

router = APIRouter(include_in_schema=False)


class ExtractBody(Hooked):
    file_input: str
    configuration: dict[str, Any] | None = None
    configuration_id: str | None = None


def view(key: Key, job: Job) -> dict[str, Any]:
    output = job.output
    return job.view(key) | {
        "file_input": _file_input(job.batch) or (job.result.custom_id if job.result else None),
        "configuration_id": job.batch.configuration_id,
        "extract_result": None if output is None else output["data"],
        "extract_metadata": None,
        "usage": None,
    }


@router.post(_PATH)
async def create_job(request: Request) -> Response:
    """`file_input` is a file's id, or that of a parse job: then its document is read."""
    key = await caller(request, "batches:write")
    making = Making.begin(request, key, _PATH)
    given = problems.checked(ExtractBody, await making.body(MAX_BODY_BYTES))
    if (before := await making.once.before()) is not None:
        return before
    chosen = _chosen(given)
    document = await _document(parts(request), key, given.file_input)
    told = await jobs.webhooks(making.of, key, Extract.name, given)
    facts = words.facts(file_input=given.file_input)
    return await jobs.create(
        making, Extract.name, chosen, document, facts, lambda job: view(key, job), _PLACES, told
    )


def _chosen(given: ExtractBody) -> dict[str, Any]:
    """Raises Invalid."""
    if (given.configuration is None) == (given.configuration_id is None):
        detail = "give either configuration or configuration_id"
        raise Invalid([Problem("", "one_configuration", detail)])
    if given.configuration is None:
        return {"configuration_id": given.configuration_id}
    config, _ = parameters.read(_TYPE, given.configuration, _AT)
    return {"config": config}


async def _document(of: Parts, key: Key, file_input: str) -> dict[str, Any]:
    """Raises NotFound."""
    if file_input.startswith(JOB[Parse.name]):
        return await jobs.input_of(of, await jobs.find(of, key, Parse.name, file_input))
    return {"file_id": str((await files.find(of, key, file_input)).id)}


def _file_input(batch: Batch) -> str | None:
    return base.facts(batch).get("file_input")


def _input_type(batch: Batch) -> str:
    return "parse_job_id" if (_file_input(batch) or "").startswith(JOB[Parse.name]) else "file_id"


_FILTERS: Mapping[str, Callable[[Batch], str | None]] = {
    "configuration_id": lambda batch: batch.configuration_id,
    "file_input": _file_input,
    "document_input_value": _file_input,
    "document_input_type": _input_type,
}


@router.get(_PATH)
async def list_jobs(request: Request) -> Response:
    key = await caller(request, "batches:read")
    return await jobs.listed(request, key, Extract.name, lambda job: view(key, job), _FILTERS)


@router.get(_PATH + "/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    key = await caller(request, "batches:read")
    return as_json(view(key, await jobs.find(parts(request), key, Extract.name, job_id)))


@router.post(_PATH + "/{job_id}/cancel")
async def cancel_job(request: Request, job_id: str) -> Response:
    key = await caller(request, "batches:write")
    return as_json(view(key, await jobs.cancel(request, key, Extract.name, job_id)))


@router.delete(_PATH + "/{job_id}")
async def delete_job(request: Request, job_id: str) -> Response:
    key = await caller(request, "batches:write")
    return await jobs.delete(request, key, Extract.name, job_id)
