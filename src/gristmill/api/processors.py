"""The kinds of work that are installed here, and what each takes."""

from functools import cache
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill import processors
from gristmill.api import pages
from gristmill.api.auth import caller
from gristmill.api.envelope import answer
from gristmill.api.openapi import LIST, PAGE, READ, documented, enveloped, paged, ref, responses
from gristmill.api.query import Query
from gristmill.domain.errors import NotFound
from gristmill.processors.agent_message import AgentMessage

router = APIRouter(prefix="/api/v1/processors", tags=["Processors"])


@cache
def _view(name: str) -> dict[str, Any]:
    processor = processors.get(name)
    by_agent = name == AgentMessage.name
    return {
        "name": name,
        "description": processor.description,
        "configured_by": "agent_id" if by_agent else "config",
        "input_schema": processor.input_model.model_json_schema(),
        # An agent is the configuration: the service takes it with the batch itself.
        "config_schema": None if by_agent else processor.config_model.model_json_schema(),
    }


@router.get(
    "",
    summary="List processors",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("ProcessorAnswer"))),
)
async def list_processors(request: Request) -> Response:
    """By name. Any API key may look."""
    key = await caller(request)
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, "processors")
    names = sorted(processors.registry())
    first = sum(name <= page.position for name in names) if page.position else page.skip
    rows = pages.rows(page, names[first : first + page.fetch], len(names), str)
    return pages.listing(page, rows, [_view(name) for name in rows.shown])


@router.get(
    "/{name}",
    summary="Get a processor",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("ProcessorAnswer"))),
)
async def get_processor(request: Request, name: str) -> Response:
    """With the JSON Schemas of its input and its configuration."""
    await caller(request)
    Query(request, ()).check()
    if name not in processors.registry():
        raise NotFound("no such processor")
    return answer(_view(name))
