"""Before a job: whether its documents can be opened, and a table to begin with."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.sources import LocalSource, ObjectSource, Source, SourceRefused, UrlSource
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.storage.opening import open_objects
from gristmill.storage.sources import Sources

MOST_PATHS = 200
_AT_ONCE = 8
_MAX_BODY_BYTES = 1024 * 1024
_COLUMNS = (
    ("title", True, "What the document is called"),
    ("description", False, "What it is about; tagged alone where there is no file"),
    ("file_source_type", False, "url, s3 or local; url if it is left out"),
    ("file_path", False, "Where the document is: a URL, a key, a path"),
)
_TEMPLATE = (
    "title,description,file_source_type,file_path\n"
    "Annual report,Figures and outlook of the year,url,https://example.com/report.pdf\n"
    "Handbook,For those who join,s3,handbooks/joining.docx\n"
    "Minutes,,local,minutes/march.txt\n"
)

router = APIRouter(include_in_schema=False)


@router.get("/api/batch/template")
async def get_template(request: Request) -> Response:
    await caller(request, "batches:read")
    columns = [{"name": name, "required": must, "description": text} for name, must, text in _COLUMNS]
    return as_json({"template": _TEMPLATE, "columns": columns})


@router.post("/api/batch/validate-paths")
async def validate_paths(request: Request) -> Response:
    """Each path is looked at as a job would open it, within the same walls; nothing is read or kept."""
    await caller(request, "batches:write")
    given = await body.read_json(request, dict, _MAX_BODY_BYTES)
    paths = given.get("paths")
    if not isinstance(paths, list) or not all(isinstance(one, dict) for one in paths):
        raise Invalid([Problem("/paths", "list_type", "a list of objects with path and type")])
    if len(paths) > MOST_PATHS:
        raise Invalid([Problem("/paths", "too_long", f"at most {MOST_PATHS} paths")])
    found = await _look(parts(request), paths)
    valid = sum(one["valid"] for one in found)
    counts = {"total": len(found), "valid_count": valid, "invalid_count": len(found) - valid}
    return as_json({"results": found} | counts)


async def _look(of: Parts, paths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sources, turns = _sources(of), asyncio.Semaphore(_AT_ONCE)

    async def one(path: object, kind: object) -> dict[str, Any]:
        async with turns:
            error = await _error(of, sources, path, kind)
        return {"path": path, "valid": error is None, "error": error, "content_type": None, "size": None}

    return await asyncio.gather(*(one(given.get("path"), given.get("type", "url")) for given in paths))


async def _error(of: Parts, sources: Sources, path: object, kind: object) -> str | None:
    """None: it can be opened."""
    if not isinstance(path, str) or not path.strip():
        return "Empty path"
    source = _source(path.strip(), kind)
    if source is None:
        return "Unknown path type: url, s3 or local"
    try:
        if isinstance(source, UrlSource):
            check_url(source.url, allow_private=of.settings.allow_private_addresses)
        await sources.look(source)
    except (SourceRefused, AddressRefused) as refused:
        return str(refused.message if isinstance(refused, SourceRefused) else refused)
    return None


def _source(path: str, kind: object) -> Source | None:
    match kind.strip().lower() if isinstance(kind, str) else None:
        case "url":
            return UrlSource(path)
        case "s3":
            return UrlSource(path) if path.startswith(("https://", "http://")) else ObjectSource(path)
        case "local":
            return LocalSource(path)
    return None


def _sources(of: Parts) -> Sources:
    async def no_file(*_: object) -> None:
        return None

    settings = of.settings
    return Sources(
        of.storage,
        of.http,
        no_file,
        max_bytes=settings.upload_max_bytes,
        local_root=settings.local_root,
        objects=open_objects(settings),
    )
