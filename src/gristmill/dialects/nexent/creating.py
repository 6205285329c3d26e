"""Files of Nexent on their way: each becomes a task, those that cannot be used failed ones, so that none is lost."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, create, storing
from gristmill.api.aside import Run, at_once
from gristmill.api.auth import caller
from gristmill.api.configurations import named
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.dialects.nexent.words import NAME, SOURCE_TYPES, STRATEGIES
from gristmill.domain.errors import Conflict, Invalid, Problem
from gristmill.domain.outcomes import ItemError
from gristmill.intake import json
from gristmill.intake.draft import MAX_ITEMS
from gristmill.processors.pipeline import Pipeline
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch, NewItem
from gristmill.store.origins import Origin

MAX_SOURCES = 100_000
MAX_INDICES = 100  # in one request: each is a batch of its own
_ATTEMPTS = 12  # as many as Nexent gives to forwarding
_MAX_NAME, _MAX_SOURCE = 256, 2048
_KEPT = ("original_filename", "embedding_model_id", "tenant_id", "file_id")  # go along with every chunk

router = APIRouter(include_in_schema=False)


@dataclass(slots=True)
class _Group:
    """Sources of one index that one batch takes; `flaws`: what is wrong with single ones, by their place in it."""

    index_name: str | None
    places: list[int] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    flaws: dict[int, str] = field(default_factory=dict)

    def add(self, place: int, source: Mapping[str, Any]) -> None:
        if (flaw := _flaw(source)) is not None:
            self.flaws[len(self.places)] = flaw
        self.places.append(place)
        self.requests.append({"custom_id": str(place), "input": _input(source)})


@router.post("/tasks")
async def create_task(request: Request) -> Response:
    """One file. What is wrong with it is a 422: there is nobody to whom a failed task would have to be told."""
    key = await caller(request, "batches:write")
    of = parts(request)
    source = await body.read_json(request, dict, of.settings.body_max_bytes)
    if (flaw := _flaw(source)) is not None:
        name, _, detail = flaw.partition(": ")
        raise Invalid([Problem(f"/{name}", "value_error", detail)])
    try:
        [task_id], _ = await _submit(of, key, [source], at_once, on_invalid="reject")
    except Invalid as refused:
        raise Invalid([_without_request(one) for one in refused.problems]) from None
    return as_json({"task_id": task_id}, 201)


@router.post("/tasks/batch")
async def create_tasks(request: Request) -> Response:
    """As many ids as sources, in their order. A source that cannot be used has one, too: its task has failed."""
    key = await caller(request, "batches:write")
    of = parts(request)
    text = await body.read_json_text(request, of.settings.body_max_bytes)
    async with of.aside.turn(text) as run:
        sources = await run(_sources, await run(json.parse, text, dict))
        task_ids, rejected = await _submit(of, key, sources, run, on_invalid="fail_items")
    told = {"rejected": rejected} if rejected else {}
    return as_json({"task_ids": task_ids} | told, 201)


def _without_request(problem: Problem) -> Problem:
    """As the caller wrote it: of one source there is no list."""
    return replace(problem, pointer=problem.pointer.removeprefix("/requests/0/input") or "/source")


def _sources(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Raises Invalid."""
    if "sources" not in given:
        raise Invalid([Problem("/sources", "missing", "Field required")])
    sources = given["sources"]
    if not isinstance(sources, list):
        raise Invalid([Problem("/sources", "list_type", "Input should be a valid list")])
    if len(sources) > MAX_SOURCES:
        raise Invalid([Problem("/sources", "too_long", f"at most {MAX_SOURCES} sources")])
    wrong = [place for place, one in enumerate(sources) if not isinstance(one, dict)]
    if wrong:
        what = "Input should be a valid dictionary"
        raise Invalid([Problem(f"/sources/{place}", "dict_type", what) for place in wrong[:100]])
    if len({_index(one) for one in sources}) > MAX_INDICES:
        raise Invalid([Problem("/sources", "too_many_indices", f"of at most {MAX_INDICES} indices at once")])
    return sources


# --- from a source to a request ---------------------------------------------------------------------------------


def _index(source: Mapping[str, Any]) -> str | None:
    name = source.get("index_name")
    return name if isinstance(name, str) and 0 < len(name) <= _MAX_NAME and "\0" not in name else None


def _flaw(source: Mapping[str, Any]) -> str | None:
    """What is wrong with it, as `field: what`; None: nothing that can be seen before its URL is checked."""
    for name, longest in (("source", _MAX_SOURCE), ("index_name", _MAX_NAME)):
        value = source.get(name)
        if value is None or value == "":
            return f"{name}: Field required"
        if not isinstance(value, str) or len(value) > longest or "\0" in value:
            return f"{name}: Input should be a string of at most {longest} characters"
    if source.get("source_type") not in SOURCE_TYPES:
        return f"source_type: Input should be one of: {', '.join(SOURCE_TYPES)}"
    if source.get("chunking_strategy") not in (None, *STRATEGIES):
        return f"chunking_strategy: Input should be one of: {', '.join(STRATEGIES)}"
    filename = source.get("original_filename")
    if filename is not None and (not isinstance(filename, str) or len(filename) > _MAX_NAME):
        return f"original_filename: Input should be a string of at most {_MAX_NAME} characters"
    return None


def _input(source: Mapping[str, Any]) -> dict[str, Any]:
    """For the pipeline, as far as it can be understood. What else Nexent sends is passed over."""
    texts = {name: _text(value) for name, value in source.items() if isinstance(name, str)}
    wanted = {name: texts.get(name) for name in ("source", "source_type", "chunking_strategy")}
    kept = {name: texts[name] for name in ("index_name", *_KEPT) if texts.get(name)}
    found = {name: value for name, value in wanted.items() if value}
    filename = texts.get("original_filename")
    path = {"path_or_url": found["source"]} if "source" in found else {}
    metadata = kept | path | {"source_type": found.get("source_type", "")}
    return found | {"metadata": metadata} | ({"filename": filename[-255:]} if filename else {})


def _text(value: object) -> str | None:
    """Of a scalar; cut, so that what is too long to be used can still be stored as failed."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).replace("\0", "")[:_MAX_SOURCE]


# --- from requests to batches -----------------------------------------------------------------------------------


Made = list[tuple[NewBatch, list[NewItem]]]


async def _submit(
    of: Parts, key: Key, sources: list[dict[str, Any]], run: Run, *, on_invalid: str
) -> tuple[list[str], list[dict[str, Any]]]:
    """The tasks' ids in the order of the sources, and which of them failed at once. All are stored, or none."""
    groups: list[_Group] = await run(_grouped, sources)
    made = [await _batch(of, key, group, run, on_invalid) for group in groups]
    answered: tuple[list[str], list[dict[str, Any]]] = await run(_answered, groups, made, len(sources))
    await storing.stored(of, made)
    return answered


def _answered(groups: list[_Group], made: Made, count: int) -> tuple[list[str], list[dict[str, Any]]]:
    ids = [""] * count
    rejected: list[dict[str, Any]] = []
    for group, (new, items) in zip(groups, made, strict=True):
        for ordinal, (place, item) in enumerate(zip(group.places, items, strict=True)):
            ids[place] = f"{new.id}-{ordinal}"
            if item.error is not None:
                rejected.append({"index": place, "error": _told(item.error)})
    return ids, sorted(rejected, key=lambda one: one["index"])


def _told(error: str) -> str:
    """The message of an item's error as Nexent's caller would say it: what is wrong with an input is so with its source."""
    message: str = orjson.loads(error)["message"].removeprefix("/input").removeprefix("/")
    return f"source{message}" if message.startswith(":") else message


def _grouped(sources: list[dict[str, Any]]) -> list[_Group]:
    """By index, as many in each as a batch takes."""
    groups = defaultdict[str | None, list[_Group]](list)
    for place, source in enumerate(sources):
        index_name = _index(source)
        mine = groups[index_name]
        if not mine or len(mine[-1].places) == MAX_ITEMS:
            mine.append(_Group(index_name))
        mine[-1].add(place, source)
    return [group for mine in groups.values() for group in mine]


async def _batch(
    of: Parts, key: Key, group: _Group, run: Run, on_invalid: str
) -> tuple[NewBatch, list[NewItem]]:
    body = {
        "configuration_id": await _sink(of, key.tenant_id, group.index_name),
        "requests": group.requests,
        "on_invalid": on_invalid,
        "max_attempts": _ATTEMPTS,
    }
    if group.index_name is not None:
        body["collection"] = group.index_name
    new, content = await create.new_batch(of, key, body, run)
    assert isinstance(content, list)  # inline requests are
    for ordinal, flaw in group.flaws.items():
        error = ItemError(400, "invalid_request", flaw, suggestion="Send it again, corrected.")
        content[ordinal].error = orjson.dumps(error.as_json()).decode()
    return replace(new, origin=Origin(NAME)), content


async def _sink(of: Parts, tenant_id: UUID, index_name: str | None) -> str:
    """The tenant's configuration of the processor `pipeline` that is called as the index, else the one called nexent."""
    names = (NAME,) if index_name is None else (index_name, NAME)
    found = await named(of, tenant_id, Pipeline.name, *names)
    if found is None:
        detail = (
            f"there is no sink for the chunks: store a configuration of the processor {Pipeline.name} that is called "
            f"{NAME}, or as the index"
        )
        raise Conflict(detail, code="no_sink")
    return found
