"""Configurations: named settings of a processor, kept here and named by batches. Presets come with the processors."""

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from gristmill import processors
from gristmill.api import body, pages
from gristmill.api.auth import caller
from gristmill.api.envelope import answer
from gristmill.api.openapi import (
    CHANGE,
    LIST,
    PAGE,
    READ,
    WRITE,
    documented,
    enveloped,
    json_body,
    paged,
    parameter,
    ref,
    responses,
)
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.schemas import Name, Strict
from gristmill.domain.errors import Conflict, Invalid, NotFound, Problem
from gristmill.domain.ids import uuid7
from gristmill.processors.agent_message import AgentMessage
from gristmill.processors.base import Processor
from gristmill.store import configurations
from gristmill.store.configurations import Configuration
from gristmill.vault import Vault

PREFIX = "cfg-"
MAX_BODY_BYTES = 1024 * 1024

router = APIRouter(prefix="/api/v1/configurations", tags=["Configurations"])

Config = Annotated[dict[str, Any], Field(description="As the processor's config_schema says")]


class ConfigurationCreate(Strict):
    name: Name
    processor: Name
    config: Config = Field(default_factory=dict)


class ConfigurationUpdate(Strict):
    """What is left out stays. `config` is replaced as a whole."""

    name: Name | None = None
    config: Config | None = None


# --- what it gets ---------------------------------------------------------------------------------------------


def view(vault: Vault, one: Configuration) -> dict[str, Any]:
    """Secrets in it show as asterisks."""
    text = vault.decrypt(one.config, configurations.binding(one.id))
    return {
        "id": f"{PREFIX}{one.id}",
        "name": one.name,
        "processor": one.processor,
        "config": _shown(one.processor, text),
        "preset": False,
        "created_at": one.created_at,
        "updated_at": one.updated_at,
    }


def _preset_view(name: str, processor: Processor[Any, Any]) -> dict[str, Any]:
    return {
        "id": f"{PREFIX}{name}",
        "name": name,
        "processor": processor.name,
        "config": _shown(processor.name, orjson.dumps(processor.presets[name])),
        "preset": True,
        "created_at": None,
        "updated_at": None,
    }


def _shown(name: str, text: bytes) -> dict[str, Any] | None:
    """With the defaults filled in; None if it does not fit the processor that is installed here."""
    processor = processors.registry().get(name)
    try:
        found = processor and processor.config_model.model_validate_json(text)
    except ValidationError:
        return None
    return found.model_dump(mode="json") if found else None


# --- for batches ----------------------------------------------------------------------------------------------


async def copied(of: Parts, tenant_id: UUID, configuration_id: str) -> tuple[str, dict[str, Any]] | None:
    """The processor and the configuration by that id, a preset's or the tenant's own; None if there is none."""
    if preset := _presets().get(configuration_id):
        name = configuration_id.removeprefix(PREFIX)
        return preset.name, dict(preset.presets[name])
    found = uuid_of(configuration_id.removeprefix(PREFIX))
    if found is None or not configuration_id.startswith(PREFIX):
        return None
    try:
        async with of.database.engine.connect() as connection:
            one = await configurations.get(connection, tenant_id, found)
    except NotFound:
        return None
    return one.processor, opened(of, one)


async def named(of: Parts, tenant_id: UUID, processor: str, *names: str) -> str | None:
    """The id of the tenant's newest configuration of the processor that has the first of these names that one has."""
    async with of.database.engine.connect() as connection:
        for name in names:
            found, _ = await configurations.page(
                connection, tenant_id, limit=1, offset=0, before=None, processor=processor, name=name
            )
            if found:
                return f"{PREFIX}{found[0].id}"
    return None


def _presets() -> dict[str, Processor[Any, Any]]:
    """By id, sorted. Of two with one name the first processor's wins."""
    found: dict[str, Processor[Any, Any]] = {}
    for _, processor in sorted(processors.registry().items()):
        for name in processor.presets:
            found.setdefault(f"{PREFIX}{name}", processor)
    return dict(sorted(found.items()))


# --- routes ---------------------------------------------------------------------------------------------------


def id_of(configuration_id: str) -> UUID:
    """Raises NotFound for what cannot be an id, Conflict for a preset's."""
    if configuration_id in _presets():
        raise Conflict("a preset cannot be changed or deleted", code="preset")
    found = uuid_of(configuration_id.removeprefix(PREFIX))
    if found is None or not configuration_id.startswith(PREFIX):
        raise NotFound("no such configuration")
    return found


def _checked(of: Parts, name: str, config: dict[str, Any]) -> None:
    """Raises Invalid unless the processor is installed and takes this configuration."""
    processor = processors.registry().get(name)
    if processor is None:
        detail = "no such processor; GET /api/v1/processors lists them"
        raise Invalid([Problem("/processor", "unknown_processor", detail)])
    if name == AgentMessage.name:
        detail = "agents are configured at /api/v1/agents"
        raise Invalid([Problem("/processor", "configured_by_agent", detail)])
    _, found = processors.validate_config(
        processor, config, allow_private=of.settings.allow_private_addresses
    )
    if found:
        raise Invalid(found)


def _sealed(of: Parts, configuration_id: UUID, config: dict[str, Any]) -> bytes:
    return of.vault.encrypt(orjson.dumps(config), configurations.binding(configuration_id))


@router.post(
    "",
    status_code=201,
    summary="Create a configuration",
    responses=responses(*WRITE),
    openapi_extra=documented(
        body=json_body("ConfigurationCreate"), answer=enveloped(ref("ConfigurationAnswer")), status=201
    ),
)
async def create_configuration(request: Request) -> Response:
    """Batches name it by `configuration_id` and run with a copy of it."""
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, ConfigurationCreate, MAX_BODY_BYTES)
    of = parts(request)
    made = await create(of, key.tenant_id, given.name, given.processor, given.config)
    location = f"/api/v1/configurations/{PREFIX}{made.id}"
    return answer(view(of.vault, made), 201, headers={"Location": location})


async def create(
    of: Parts, tenant_id: UUID, name: str, processor: str, config: dict[str, Any], *, facts: str | None = None
) -> Configuration:
    """Raises Invalid. `facts`: JSON that only a dialect reads."""
    new_id = uuid7()
    _checked(of, processor, config)
    async with of.database.engine.begin() as connection:
        return await configurations.create(
            connection,
            tenant_id,
            new_id,
            name=name,
            processor=processor,
            config=_sealed(of, new_id, config),
            facts=facts,
        )


@router.get(
    "",
    summary="List configurations",
    responses=responses(*LIST),
    openapi_extra=documented(
        *PAGE,
        parameter("processor", {"type": "string"}, "Only configurations of this processor"),
        parameter("name", {"type": "string"}, "Only configurations of this name"),
        answer=paged(ref("ConfigurationAnswer")),
    ),
)
async def list_configurations(request: Request) -> Response:
    """Your own, newest first. Presets are at `/api/v1/configurations/presets`."""
    key = await caller(request, "configurations:read")
    query = Query(request, (*pages.PARAMETERS, "processor", "name"))
    processor, name = query.text("processor"), query.text("name")
    page = pages.asked(request, query, key, "configurations")
    of = parts(request)
    async with of.database.engine.connect() as connection:
        found, total = await configurations.page(
            connection,
            key.tenant_id,
            limit=page.fetch,
            offset=page.skip,
            before=page.before,
            processor=processor,
            name=name,
        )
    rows = pages.rows(page, found, total, lambda one: one.id)
    shown = [view(of.vault, one) for one in rows.shown]
    return pages.listing(page, rows, shown)


@router.get(
    "/presets",
    summary="List presets",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("ConfigurationAnswer"))),
)
async def list_presets(request: Request) -> Response:
    """The configurations that come with the processors, by name. Any API key may look."""
    key = await caller(request)
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, "presets")
    presets = _presets()
    ids = list(presets)
    first = sum(one <= page.position for one in ids) if page.position else page.skip
    rows = pages.rows(page, ids[first : first + page.fetch], len(ids), str)
    shown = [_preset_view(one.removeprefix(PREFIX), presets[one]) for one in rows.shown]
    return pages.listing(page, rows, shown)


@router.get(
    "/{configuration_id}",
    summary="Get a configuration",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("ConfigurationAnswer"))),
)
async def get_configuration(request: Request, configuration_id: str) -> Response:
    """With the defaults filled in. Secrets are never shown."""
    key = await caller(request, "configurations:read")
    Query(request, ()).check()
    if preset := _presets().get(configuration_id):
        return answer(_preset_view(configuration_id.removeprefix(PREFIX), preset))
    of = parts(request)
    async with of.database.engine.connect() as connection:
        found = await configurations.get(connection, key.tenant_id, id_of(configuration_id))
    return answer(view(of.vault, found))


@router.patch(
    "/{configuration_id}",
    summary="Change a configuration",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(
        body=json_body("ConfigurationUpdate"), answer=enveloped(ref("ConfigurationAnswer"))
    ),
)
async def change_configuration(request: Request, configuration_id: str) -> Response:
    """For batches made from now on. Those made before keep their copy."""
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, ConfigurationUpdate, MAX_BODY_BYTES)
    of, its_id = parts(request), id_of(configuration_id)
    return answer(view(of.vault, await change(of, key.tenant_id, its_id, given)))


async def change(
    of: Parts, tenant_id: UUID, its_id: UUID, given: ConfigurationUpdate, *, facts: str | None = None
) -> Configuration:
    """Raises NotFound, Invalid. `facts` None: as they are."""
    changes: dict[str, Any] = {} if given.name is None else {"name": given.name}
    if facts is not None:
        changes["dialect_facts"] = facts
    async with of.database.engine.begin() as connection:
        before = await configurations.get(connection, tenant_id, its_id)
        if given.config is not None:
            _checked(of, before.processor, given.config)
            changes["config"] = _sealed(of, its_id, given.config)
        return await configurations.change(connection, tenant_id, its_id, changes)


def opened(of: Parts, one: Configuration) -> dict[str, Any]:
    """What the processor is configured with, secrets and all: for batches, never to be shown."""
    config: dict[str, Any] = orjson.loads(of.vault.decrypt(one.config, configurations.binding(one.id)))
    return config


@router.delete(
    "/{configuration_id}",
    status_code=204,
    summary="Delete a configuration",
    responses=responses(*READ, 409),
    openapi_extra=documented(),
)
async def delete_configuration(request: Request, configuration_id: str) -> Response:
    """Batches that were made with it keep their copy."""
    key = await caller(request, "configurations:write")
    Query(request, ()).check()
    async with parts(request).database.engine.begin() as connection:
        await configurations.remove(connection, key.tenant_id, id_of(configuration_id))
    return Response(status_code=204)
