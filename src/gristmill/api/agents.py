"""Agents: instructions, a model and its parameters, tools. A change makes a new version; only a published one runs."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, pages
from gristmill.api.agent_options import (
    AGENT_EXAMPLES,
    AgentCreate,
    AgentPublish,
    AgentUpdate,
    McpServerOptions,
)
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
    ref,
    responses,
)
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query, uuid_of
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.intake import problems
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.processors.mcp_client import mcp_available
from gristmill.store import agents
from gristmill.store.agents import Agent, Draft, McpServer, Version
from gristmill.vault import Vault

MAX_BODY_BYTES = 1024 * 1024

router = APIRouter(prefix="/api/v1/agents", tags=["Agents"])


# --- what it gets ---------------------------------------------------------------------------------------------


def view(vault: Vault, agent: Agent) -> dict[str, Any]:
    """The latest version, and which one is published."""
    return {
        "id": agent.id,
        **_content(vault, agent.latest),
        "version": agent.latest_version,
        "published_version": agent.published_version,
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
    }


def _version_view(vault: Vault, version: Version) -> dict[str, Any]:
    return {
        "agent_id": version.agent_id,
        "version": version.version,
        **_content(vault, version),
        "created_at": version.created_at,
        "published_at": version.published_at,
    }


def _content(vault: Vault, version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "model": version.model,
        "instructions": version.instructions,
        "parameters": version.parameters,
        "mcp_servers": [_server_view(server) for server in agents.servers(vault, version)],
    }


def _server_view(server: McpServer) -> dict[str, Any]:
    return {"name": server.name, "url": server.url, "header_names": sorted(server.headers)}


# --- routes ---------------------------------------------------------------------------------------------------


def _id_of(agent_id: str) -> UUID:
    found = uuid_of(agent_id)
    if found is None:
        raise NotFound("no such agent")
    return found


def _changes(of: Parts, given: AgentCreate | AgentUpdate, names: set[str]) -> dict[str, Any]:
    """The named fields as those of a draft. Raises Invalid for addresses that may not be called."""
    found = {name: getattr(given, name) for name in names}
    if "mcp_servers" in found:
        _check_addresses(of, given.mcp_servers)
        found["mcp_servers"] = tuple(McpServer(**server.model_dump()) for server in given.mcp_servers)
    return found


def _check_addresses(of: Parts, servers: list[McpServerOptions]) -> None:
    wrong = []
    for index, server in enumerate(servers):
        try:
            check_url(server.url, allow_private=of.settings.allow_private_addresses)
        except AddressRefused as refused:
            wrong.append(
                Problem(problems.pointer("mcp_servers", index, "url"), "address_refused", str(refused))
            )
    if wrong:
        raise Invalid(wrong)


def _draft(of: Parts, given: AgentCreate) -> Draft:
    return Draft(**_changes(of, given, set(AgentCreate.model_fields)))


@router.post(
    "",
    status_code=201,
    summary="Create an agent",
    responses=responses(*WRITE),
    openapi_extra=documented(
        body=json_body("AgentCreate", AGENT_EXAMPLES), answer=enveloped(ref("AgentAnswer")), status=201
    ),
)
async def create_agent(request: Request) -> Response:
    """Version 1, not published yet."""
    key = await caller(request, "agents:write")
    given = await body.read_model(request, AgentCreate, MAX_BODY_BYTES)
    of = parts(request)
    async with of.database.engine.begin() as connection:
        agent = await agents.create(connection, of.vault, key.tenant_id, _draft(of, given))
    return answer(view(of.vault, agent), 201, headers={"Location": f"/api/v1/agents/{agent.id}"})


@router.patch(
    "/{agent_id}",
    summary="Change an agent",
    responses=responses(*CHANGE),
    openapi_extra=documented(body=json_body("AgentUpdate"), answer=enveloped(ref("AgentAnswer"))),
)
async def change_agent(request: Request, agent_id: str) -> Response:
    """A new version, not published yet: the latest one with these fields changed."""
    key = await caller(request, "agents:write")
    given = await body.read_model(request, AgentUpdate, MAX_BODY_BYTES)
    return await _revise(
        request, key.tenant_id, agent_id, _changes(parts(request), given, given.model_fields_set)
    )


@router.put(
    "/{agent_id}",
    summary="Replace an agent",
    responses=responses(*CHANGE),
    openapi_extra=documented(
        body=json_body("AgentCreate", AGENT_EXAMPLES), answer=enveloped(ref("AgentAnswer"))
    ),
)
async def replace_agent(request: Request, agent_id: str) -> Response:
    """A new version, not published yet, with exactly these fields."""
    key = await caller(request, "agents:write")
    given = await body.read_model(request, AgentCreate, MAX_BODY_BYTES)
    return await _revise(
        request, key.tenant_id, agent_id, _changes(parts(request), given, set(AgentCreate.model_fields))
    )


async def _revise(request: Request, tenant_id: UUID, agent_id: str, changes: Mapping[str, Any]) -> Response:
    of = parts(request)
    async with of.database.engine.begin() as connection:
        agent = await agents.revise(connection, of.vault, tenant_id, _id_of(agent_id), changes)
    return answer(view(of.vault, agent))


@router.post(
    "/{agent_id}/publish",
    summary="Publish an agent",
    responses=responses(*CHANGE),
    openapi_extra=documented(
        body=json_body("AgentPublish", required=False), answer=enveloped(ref("AgentAnswer"))
    ),
)
async def publish_agent(request: Request, agent_id: str) -> Response:
    """Batches made from now on run this version. Those made before keep theirs."""
    key = await caller(request, "agents:write")
    given = problems.checked(AgentPublish, await body.read_optional(request))
    of = parts(request)
    async with of.database.engine.begin() as connection:
        agent = await agents.get(connection, key.tenant_id, _id_of(agent_id))
        version = await agents.version_of(
            connection, key.tenant_id, agent.id, given.version or agent.latest_version
        )
        if version.mcp_servers is not None and not mcp_available():
            raise Invalid(
                [Problem("/mcp_servers", "extra_missing", "tools need the extra: install gristmill[mcp]")]
            )
        agent = await agents.publish(connection, key.tenant_id, agent.id, version.version)
    return answer(view(of.vault, agent))


@router.get(
    "",
    summary="List agents",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("AgentAnswer"))),
)
async def list_agents(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "agents:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, "agents")
    of = parts(request)
    async with of.database.engine.connect() as connection:
        found, total = await agents.page(
            connection, key.tenant_id, limit=page.fetch, offset=page.skip, before=page.before
        )
    rows = pages.rows(page, found, total, lambda agent: agent.id)
    return pages.listing(page, rows, [view(of.vault, one) for one in rows.shown])


@router.get(
    "/{agent_id}",
    summary="Get an agent",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("AgentAnswer"))),
)
async def get_agent(request: Request, agent_id: str) -> Response:
    """Its latest version. Header values of tool servers are never shown."""
    key = await caller(request, "agents:read")
    Query(request, ()).check()
    of = parts(request)
    async with of.database.engine.connect() as connection:
        agent = await agents.get(connection, key.tenant_id, _id_of(agent_id))
    return answer(view(of.vault, agent))


@router.get(
    "/{agent_id}/versions",
    summary="Versions of an agent",
    responses=responses(*READ),
    openapi_extra=documented(*PAGE, answer=paged(ref("AgentVersionAnswer"))),
)
async def list_versions(request: Request, agent_id: str) -> Response:
    """Newest first."""
    key = await caller(request, "agents:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, f"versions:{agent_id.lower()}")
    of = parts(request)
    before = int(page.position) if page.position else None
    async with of.database.engine.connect() as connection:
        agent = await agents.get(connection, key.tenant_id, _id_of(agent_id))
        found, total = await agents.versions(
            connection, agent.id, limit=page.fetch, offset=page.skip, before=before
        )
    rows = pages.rows(page, found, total, lambda one: one.version)
    shown = [_version_view(of.vault, one) for one in rows.shown]
    return pages.listing(page, rows, shown)
