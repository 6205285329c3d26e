"""`/api/v2/parse`: a document to text and Markdown, page by page."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.multipart import FilePart
from gristmill.api.parts import Parts, parts
from gristmill.api.upload import Upload
from gristmill.dialects.llamacloud import configurations, files, jobs, pages, parameters, words
from gristmill.dialects.llamacloud.hooks import Hooked
from gristmill.dialects.llamacloud.jobs import Job
from gristmill.dialects.llamacloud.making import MAX_BODY_BYTES
from gristmill.dialects.making import Making
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import json, problems
from gristmill.processors.parse import Parse
from gristmill.store.keys import Key

_PATH = "/api/v2/parse"
_TYPE = "parse_v2"
_PLACES = {
    "/requests/0/input/file_id": "/file_id",
    "/requests/0/input": "/source_url",
    **parameters.PLACES,
    "/processor": "/configuration_id",
}

router = APIRouter(include_in_schema=False)


class ParseBody(Hooked):
    """The parameters of a configuration may stand beside these."""

    file_id: str | None = None
    source_url: str | None = Field(None, min_length=1, max_length=2048)
    configuration_id: str | None = None
    user_metadata: dict[str, str] | None = Field(None, max_length=64)


def view(key: Key, job: Job) -> dict[str, Any]:
    facts, output = job.facts, job.output or {}
    return job.view(key) | {
        "name": output.get("filename") or facts.get("name"),
        "tier": facts.get("tier"),
        "usage": None,
        "user_metadata": facts.get("user_metadata"),
    }


# --- create ---------------------------------------------------------------------------------------------------


@router.post(_PATH)
async def create_job(request: Request) -> Response:
    """Of a file by its `file_id`, or of a document at a `source_url`."""
    key = await caller(request, "batches:write")
    making = Making.begin(request, key, _PATH)
    body = await making.body(MAX_BODY_BYTES)
    given = problems.checked(ParseBody, body)
    if (before := await making.once.before()) is not None:
        return before
    if (given.file_id is None) == (given.source_url is None):
        raise Invalid([Problem("", "one_document", "give either file_id or source_url")])
    if given.file_id is None:
        document, name = {"source": given.source_url, "source_type": "url"}, None
    else:
        file = await files.find(parts(request), key, given.file_id)
        document, name = {"file_id": str(file.id)}, file.filename
    return await _made(making, body, given, document, name)


@router.post(_PATH + "/upload")
async def upload(request: Request) -> Response:
    """A form with the part `file`, and its `configuration` as JSON text. What the configuration lacks keeps no file."""
    key = await caller(request, "batches:write", "files:write")
    of, making = parts(request), Making.begin(request, key, _PATH)
    async with Upload(of, key.tenant_id) as incoming:
        form = FilePart(lenient=True)
        new = await files.received(request, incoming, form, purpose="parse")
        configuration = form.texts.get("configuration", "{}").encode()
        making.once.fingerprint(new.sha256 + configuration)
        if (before := await making.once.before()) is not None:
            return before
        body = json.parse(configuration, dict)
        given = problems.checked(ParseBody, body)
        await _chosen(of, key, given, body)
        await jobs.webhooks(of, key, Parse.name, given)
        async with of.database.engine.begin() as connection:
            await incoming.add(connection, [new])
        incoming.kept()
    return await _made(making, body, given, {"file_id": str(new.id)}, new.filename)


async def _made(
    making: Making, body: dict[str, Any], given: ParseBody, document: dict[str, Any], name: str | None
) -> Response:
    key = making.key
    chosen, tier = await _chosen(making.of, key, given, body)
    told = await jobs.webhooks(making.of, key, Parse.name, given)
    facts = words.facts(tier=tier, name=name, user_metadata=given.user_metadata)
    return await jobs.create(
        making, Parse.name, chosen, document, facts, lambda job: view(key, job), _PLACES, told
    )


async def _chosen(
    of: Parts, key: Key, given: ParseBody, body: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """A stored configuration goes before parameters: official clients send some beside it in any case. Raises Invalid."""
    if given.configuration_id is not None:
        tier = await configurations.tier_of(of, key, given.configuration_id)
        if tier is None:
            detail = "no such configuration"
            raise Invalid([Problem("/configuration_id", "unknown_configuration", detail)])
        return {"configuration_id": given.configuration_id}, tier
    alone = {name: value for name, value in body.items() if name not in parameters.WEBHOOKS}
    config, facts = parameters.read(_TYPE, alone)
    return {"config": config}, facts["tier"]


# --- read -----------------------------------------------------------------------------------------------------


@router.get(_PATH)
async def list_jobs(request: Request) -> Response:
    key = await caller(request, "batches:read")
    return await jobs.listed(request, key, Parse.name, lambda job: view(key, job))


@router.get(_PATH + "/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """`expand` fills in `text`, `markdown`, `text_full`, `markdown_full` and `metadata`, once the job has succeeded."""
    key = await caller(request, "batches:read")
    job = await jobs.find(parts(request), key, Parse.name, job_id)
    read = [] if job.output is None else job.output["pages"]
    filled = {name: _FILLED[name](read) for name in pages.expanded(request) if job.output and name in _FILLED}
    return as_json({"job": view(key, job)} | dict.fromkeys(_FILLED) | filled)


def _text(read: list[dict[str, Any]]) -> dict[str, Any]:
    found = [{"page_number": page["number"], "text": page["text"]} for page in read if "text" in page]
    return {"pages": found}


def _markdown(read: list[dict[str, Any]]) -> dict[str, Any]:
    found = [
        {"page_number": page["number"], "success": True, "markdown": page["markdown"]}
        for page in read
        if "markdown" in page
    ]
    return {"pages": found}


def _whole(name: str, read: list[dict[str, Any]]) -> str:
    return "\n\n".join(page[name] for page in read if name in page)


_FILLED: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "text": _text,
    "markdown": _markdown,
    "text_full": lambda read: _whole("text", read),
    "markdown_full": lambda read: _whole("markdown", read),
    "metadata": lambda read: {"pages": [{"page_number": page["number"]} for page in read]},
}


# --- end ------------------------------------------------------------------------------------------------------


@router.post(_PATH + "/{job_id}/cancel")
async def cancel_job(request: Request, job_id: str) -> Response:
    key = await caller(request, "batches:write")
    return as_json(view(key, await jobs.cancel(request, key, Parse.name, job_id)))


@router.delete(_PATH + "/{job_id}")
async def delete_job(request: Request, job_id: str) -> Response:
    key = await caller(request, "batches:write")
    return await jobs.delete(request, key, Parse.name, job_id)
