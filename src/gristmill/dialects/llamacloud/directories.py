"""`/api/v1/beta/directories`: directories, and the files in them by id or by upload."""

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.dialects import base
from gristmill.dialects.llamacloud import pages, words
from gristmill.dialects.llamacloud.words import Lenient
from gristmill.domain.errors import Invalid, Problem
from gristmill.store import directories
from gristmill.store.directories import Directory
from gristmill.store.keys import Key

PATH = "/api/v1/beta/directories"
_USER = "user"  # the type of a directory that none was given

router = APIRouter(include_in_schema=False)


class DirectoryBody(Lenient):
    name: str = Field(min_length=1, max_length=256)
    type: Literal["user", "ephemeral"] = "user"
    description: str | None = Field(None, max_length=1024)
    connector_subscription_id: str | None = None


def view(key: Key, directory: Directory) -> dict[str, Any]:
    facts = words.facts_of(directory.dialect_facts)
    created = words.instant(directory.created_at)
    return {
        "id": words.outward(words.DIRECTORY, directory.id),
        "name": directory.name,
        "project_id": words.project_of(key),
        "type": facts.get("type", _USER),
        "description": facts.get("description"),
        "connector_subscription_id": None,
        "system_metadata": None,
        "created_at": created,
        "updated_at": created,
        "deleted_at": None,
        "expires_at": None,
    }


def id_of(directory_id: str) -> UUID:
    return words.inward(words.DIRECTORY, directory_id)


@router.post(PATH)
async def create_directory(request: Request) -> Response:
    """An ephemeral one does not go by itself."""
    key = await caller(request, "files:write")
    given = await body.read_model(request, DirectoryBody, 64 * 1024)
    if given.connector_subscription_id is not None:
        detail = "nothing fills a directory by itself here: leave connector_subscription_id out"
        raise Invalid([Problem("/connector_subscription_id", "not_supported", detail)])
    facts = words.facts(type=given.type, description=given.description)
    async with parts(request).database.engine.begin() as connection:
        made = await directories.create(connection, key.tenant_id, given.name, facts=facts)
    return as_json(view(key, made))


@router.get(PATH)
async def list_directories(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "files:read")
    query = Query(request, (*pages.PARAMETERS, "name"), lenient=True)
    name = query.text("name")
    page = pages.asked(request, query, key, "llamacloud/directories")
    asked = request.query_params
    types = {*asked.getlist("type"), *asked.getlist("types")}

    async def fetch(limit: int, before: UUID | None) -> Sequence[Directory]:
        async with parts(request).database.engine.connect() as connection:
            found, _ = await directories.page(
                connection, key.tenant_id, name, limit=limit, offset=0, before=before
            )
        return found

    def wanted(directory: Directory) -> bool:
        return words.facts_of(directory.dialect_facts).get("type", _USER) in types

    shown, last = await pages.List(fetch, lambda one: one.id).page(page, wanted if types else None)
    return pages.listing(request, key, page, [view(key, one) for one in shown], last)


@router.get(PATH + "/{directory_id}")
async def get_directory(request: Request, directory_id: str) -> Response:
    key = await caller(request, "files:read")
    async with parts(request).database.engine.connect() as connection:
        found = await directories.get(connection, key.tenant_id, id_of(directory_id))
    return as_json(view(key, found))


@router.delete(PATH + "/{directory_id}", status_code=204)
async def delete_directory(request: Request, directory_id: str) -> Response:
    """Its files stay. Batches made from it keep the set of files they were made with."""
    key = await caller(request, "files:write")
    await base.ignore_body(request)
    async with parts(request).database.engine.begin() as connection:
        await directories.remove(connection, key.tenant_id, id_of(directory_id))
    return Response(status_code=204)
