"""`/api/v1/beta/configurations`: those of the processors `parse` and `extract`, wherever they were made, and their presets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api import configurations as canonical
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.dialects import base
from gristmill.dialects.llamacloud import pages, parameters, words
from gristmill.dialects.llamacloud.words import Lenient
from gristmill.domain.errors import Conflict, Invalid, NotFound, Problem
from gristmill.store import configurations
from gristmill.store.configurations import Configuration
from gristmill.store.keys import Key

_PATH = "/api/v1/beta/configurations"

router = APIRouter(include_in_schema=False)


class ConfigurationBody(Lenient):
    name: str = Field(min_length=1, max_length=256)
    parameters: dict[str, Any]


class ConfigurationChanges(Lenient):
    name: str | None = Field(None, min_length=1, max_length=256)
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A configuration of the tenant's, or a preset; secrets and all."""

    id: str
    name: str
    processor: str
    config: dict[str, Any]
    facts: dict[str, Any]
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def tier(self) -> str:
        return parameters.tier(self.processor, self.config, self.facts)

    def view(self) -> dict[str, Any]:
        product_type = words.TYPES[self.processor]
        updated = words.instant(self.updated_at)
        return {
            "id": self.id,
            "name": self.name,
            "product_type": product_type,
            "version": updated or "latest",
            "parameters": parameters.shown(product_type, self.config, self.facts),
            "created_at": words.instant(self.created_at),
            "updated_at": updated,
        }


def _of(of: Parts, one: Configuration) -> Found:
    return Found(
        f"{canonical.PREFIX}{one.id}",
        one.name,
        one.processor,
        canonical.opened(of, one),
        words.facts_of(one.dialect_facts),
        one.created_at,
        one.updated_at,
    )


async def find(of: Parts, key: Key, configuration_id: str) -> Found:
    """Raises NotFound, also for a configuration of another processor: that system has none like it."""
    try:
        its_id = canonical.id_of(configuration_id)
    except Conflict:  # a preset
        copied = await canonical.copied(of, key.tenant_id, configuration_id)
        assert copied is not None
        name = configuration_id.removeprefix(canonical.PREFIX)
        found = Found(configuration_id, name, *copied, facts={})
    else:
        async with of.database.engine.connect() as connection:
            found = _of(of, await configurations.get(connection, key.tenant_id, its_id))
    if found.processor not in words.TYPES:
        raise NotFound("no such configuration")
    return found


async def tier_of(of: Parts, key: Key, configuration_id: str) -> str | None:
    """None: there is no such configuration; the create will say so."""
    try:
        return (await find(of, key, configuration_id)).tier
    except NotFound:
        return None


# --- routes ---------------------------------------------------------------------------------------------------


@router.post(_PATH)
async def create_configuration(request: Request) -> Response:
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, ConfigurationBody, canonical.MAX_BODY_BYTES)
    product_type = _product_type(given.parameters)
    config, remembered = parameters.read(product_type, given.parameters, "/parameters")
    of = parts(request)
    with parameters.placed("/parameters"):
        made = await canonical.create(
            of,
            key.tenant_id,
            given.name,
            words.PROCESSORS[product_type],
            config,
            facts=words.facts(**remembered),
        )
    return as_json(_of(of, made).view())


def _product_type(given: dict[str, Any]) -> str:
    product_type = given.get("product_type")
    if not isinstance(product_type, str) or product_type not in words.PROCESSORS:
        detail = "must be one of: " + ", ".join(words.PROCESSORS)
        raise Invalid([Problem("/parameters/product_type", "unknown_product_type", detail)])
    return product_type


@router.get(_PATH)
async def list_configurations(request: Request) -> Response:
    """Newest first. Presets are not among them, as they are not there."""
    key = await caller(request, "configurations:read")
    query = Query(request, (*pages.PARAMETERS, "name"), lenient=True)
    name, types = query.text("name"), set(request.query_params.getlist("product_type"))
    page = pages.asked(request, query, key, "llamacloud/configurations")
    of = parts(request)
    wanted = {kind for kind, product_type in words.TYPES.items() if not types or product_type in types}

    async def fetch(limit: int, before: UUID | None) -> Sequence[Configuration]:
        async with of.database.engine.connect() as connection:
            found, _ = await configurations.page(
                connection, key.tenant_id, limit=limit, offset=0, before=before, processor=None, name=name
            )
        return found

    listed = pages.List(fetch, lambda one: one.id)
    shown, last = await listed.page(page, lambda one: one.processor in wanted)
    return pages.listing(request, key, page, [_of(of, one).view() for one in shown], last)


@router.get(_PATH + "/{configuration_id}")
async def get_configuration(request: Request, configuration_id: str) -> Response:
    key = await caller(request, "configurations:read")
    return as_json((await find(parts(request), key, configuration_id)).view())


@router.put(_PATH + "/{configuration_id}")
async def change_configuration(request: Request, configuration_id: str) -> Response:
    """For batches made from now on. Those made before keep their copy."""
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, ConfigurationChanges, canonical.MAX_BODY_BYTES)
    of, its_id = parts(request), canonical.id_of(configuration_id)
    before = await find(of, key, configuration_id)
    update, remembered = canonical.ConfigurationUpdate(name=given.name), None
    if given.parameters is not None:
        product_type = _product_type(given.parameters)
        if words.PROCESSORS[product_type] != before.processor:
            detail = "a configuration stays of its type"
            raise Invalid([Problem("/parameters/product_type", "other_product_type", detail)])
        config, facts = parameters.read(product_type, given.parameters, "/parameters")
        update, remembered = update.model_copy(update={"config": config}), words.facts(**facts)
    with parameters.placed("/parameters"):
        changed = await canonical.change(of, key.tenant_id, its_id, update, facts=remembered)
    return as_json(_of(of, changed).view())


@router.delete(_PATH + "/{configuration_id}", status_code=204)
async def delete_configuration(request: Request, configuration_id: str) -> Response:
    """Batches that were made with it keep their copy."""
    key = await caller(request, "configurations:write")
    await base.ignore_body(request)
    of, its_id = parts(request), canonical.id_of(configuration_id)
    await find(of, key, configuration_id)
    async with of.database.engine.begin() as connection:
        await configurations.remove(connection, key.tenant_id, its_id)
    return Response(status_code=204)
