"""POST /api/batch/start: documents, or rows of any table with a mapping of its columns, become a batch."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, inline
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.dialects import base
from gristmill.dialects.tagging import words
from gristmill.domain.errors import Conflict, Invalid, NotFound, Problem
from gristmill.intake import json
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.origins import KEY_TAKEN, Origin

DEFAULT_MODEL = "openai/gpt-4o-mini"
_CONFIG = ("num_pages", "num_tags")
_LEFT_OUT = ("", "ignore", "skip")  # where a mapping sends a column that nobody wants
# Of a document, in the seed's words → in those of the processor. Anything else is metadata.
_FIELDS = {
    "title": "title",
    "description": "description",
    "file_path": "source",
    "file_source_type": "source_type",
}
_POINTERS = (
    ("/requests", "/documents"),
    ("/upstream/api_key", "/config/api_key"),
    ("/upstream/model", "/config/model_name"),
    ("/upstream", "/config"),
)

router = APIRouter(include_in_schema=False)


@router.post("/api/batch/start")
async def start(request: Request) -> Response:
    """The job of this id if it was started with the same body; 409 if with another."""
    key = await caller(request, "batches:write")
    of = parts(request)
    text = await body.read_json_text(request, of.settings.body_max_bytes)
    async with of.aside.turn(text) as run:
        given = await run(json.parse, text, dict)
        job_id, print_ = _job_id(given), await run(_fingerprint, of, given)
    if job_id is not None and (known := await _known(of, key, job_id, print_)) is not None:
        return _started(known)
    return _started(await _make(of, key, given, job_id or str(uuid4()), print_))


def _started(batch: Batch) -> Response:
    message = f"Started processing of {batch.total} documents"
    return as_json({"job_id": batch.dialect_key, "total_documents": batch.total, "message": message})


def _job_id(given: dict[str, Any]) -> str | None:
    job_id = given.get("job_id")
    return None if job_id is None else words.checked(job_id if isinstance(job_id, str) else "")


def _fingerprint(of: Parts, given: dict[str, Any]) -> str:
    """Of the body, however it was written. It has a key in it: under the secret key only."""
    return of.vault.fingerprint(orjson.dumps(given, option=orjson.OPT_SORT_KEYS)).hex()


async def _known(of: Parts, key: Key, job_id: str, fingerprint: str) -> Batch | None:
    try:
        batch = await words.find(of, key, job_id)
    except NotFound:
        return None
    if base.facts(batch).get("fingerprint") != fingerprint:
        raise Conflict("a job with this job_id exists, and was started with another body", code=KEY_TAKEN)
    return batch


async def _make(of: Parts, key: Key, given: dict[str, Any], job_id: str, fingerprint: str) -> Batch:
    config = _config(given)
    documents = given.get("documents")
    if not isinstance(documents, list) or not documents:
        raise Invalid([Problem("/documents", "too_short", "No documents provided")])
    mapping = _mapping(given)
    kept = {"fingerprint": fingerprint, "model_name": config["upstream"]["model"]}
    kept |= {name: config["config"][name] for name in _CONFIG if name in config["config"]}
    origin = Origin(words.NAME, job_id, orjson.dumps(kept).decode())
    try:
        return await inline.make(of, key, config, _requests(documents, mapping), origin=origin)
    except Conflict as conflict:
        if conflict.code != KEY_TAKEN:
            raise
        known = await _known(of, key, job_id, fingerprint)
        if known is None:  # deleted meanwhile
            raise
        return known


def _config(given: dict[str, Any]) -> dict[str, Any]:
    """The body of a create, without its requests. One document that is no good fails alone."""
    config = given.get("config")
    if not isinstance(config, dict) or not config.get("api_key"):
        raise Invalid([Problem("/config/api_key", "missing", "API key is required")])
    excluded = config.get("exclusion_words") or []
    if isinstance(excluded, list):
        excluded = [one.strip() if isinstance(one, str) else one for one in excluded]
        excluded = [one for one in excluded if one != ""]
    limits = {name: config[name] for name in _CONFIG if config.get(name) is not None}
    return {
        "processor": "tag",
        "config": {**limits, "exclusion_words": excluded},
        "upstream": {"api_key": config["api_key"], "model": config.get("model_name") or DEFAULT_MODEL},
        "on_invalid": "fail_items",
    }


def _mapping(given: dict[str, Any]) -> dict[str, str | None]:
    mapping = given.get("column_mapping") or {}
    if not isinstance(mapping, dict) or not all(isinstance(one, str | None) for one in mapping.values()):
        raise Invalid([Problem("/column_mapping", "dict_type", "column → field: an object of texts")])
    return {column: field if field not in _LEFT_OUT else None for column, field in mapping.items()}


async def _requests(documents: list[Any], mapping: Mapping[str, str | None]) -> AsyncIterator[dict[str, Any]]:
    for number, row in enumerate(documents, 1):
        given = _input(row, mapping) if isinstance(row, dict) else row
        yield {"custom_id": f"row-{number}", "input": given}


def _input(row: dict[str, Any], mapping: Mapping[str, str | None]) -> dict[str, Any]:
    """What a column is mapped to comes before a column that only has the name of the field."""
    cells = {field: row[column] for column, field in mapping.items() if field and column in row}
    for column, cell in row.items():
        if column not in mapping:
            cells.setdefault(column, cell)
    found = {
        field: _text(cells[name]) for name, field in _FIELDS.items() if cells.get(name) not in (None, "")
    }
    metadata = {
        name: _text(cell) for name, cell in cells.items() if name not in _FIELDS and cell not in (None, "")
    }
    return _with_source(found) | ({"metadata": metadata} if metadata else {})


def _with_source(found: dict[str, str]) -> dict[str, Any]:
    path = found.get("source", "").strip()
    kind = found.pop("source_type", "url").strip().lower()
    if not path:
        found.pop("source", None)
        return found
    if kind == "s3" and path.startswith(("https://", "http://")):
        kind = "url"
    return {**found, "source": path, "source_type": kind}


def _text(cell: Any) -> str:
    """Cells of a table are text, whatever JSON the client made of them."""
    return cell if isinstance(cell, str) else orjson.dumps(cell).decode()


def outward(pointer: str) -> str:
    """Where in the caller's own body a problem of the batch made of it is."""
    for ours, theirs in _POINTERS:
        if pointer.startswith(ours):
            return (theirs + pointer.removeprefix(ours)).replace("/input", "", 1)
    return pointer
