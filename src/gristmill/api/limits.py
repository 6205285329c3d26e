"""Limits of the whole service, for its operator: no tenant may change what another gets, or what it gets itself."""

from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill import processors
from gristmill.api import body, pages
from gristmill.api.auth import actor, caller
from gristmill.api.envelope import answer
from gristmill.api.openapi import (
    CHANGE,
    LIST,
    PAGE,
    READ,
    documented,
    enveloped,
    json_body,
    paged,
    ref,
    responses,
)
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.api.schemas import Strict
from gristmill.db import Transaction
from gristmill.domain import circuits
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.store import service_limits
from gristmill.store.service_limits import Kind, Use

SCOPE = "operate"
MAX_BODY_BYTES = 16 * 1024
_MAX_NAME = 2048
_RATES = ("requests_per_minute", "tokens_per_minute")

router = APIRouter(prefix="/api/v1/limits", tags=["Limits"])


class LimitPut(Strict):
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Items of the tenant or the processor, calls to the endpoint, at once"
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None, description="Calls to the endpoint; of `upstream` only"
    )
    tokens_per_minute: Annotated[int, Field(ge=1, le=2_000_000_000)] | None = Field(
        None, description="Of calls to the model's endpoint; of `upstream` only"
    )


def view(use: Use) -> dict[str, Any]:
    one = use.limit
    return {
        "kind": one.kind,
        "name": one.name,
        "max_in_flight": one.max_in_flight,
        "requests_per_minute": one.requests_per_minute,
        "tokens_per_minute": one.tokens_per_minute,
        "changed_at": one.changed_at,
        "in_flight": use.in_flight,
        "granted": use.granted,
    }


def _named(of: Parts, kind: str, name: str) -> tuple[Kind, str]:
    """Raises NotFound for what nothing can be called."""
    if kind not in get_args(Kind) or len(name) > _MAX_NAME or "\0" in name:
        raise NotFound("no such limit")
    if kind == "upstream":
        found = circuits.named(name, of.vault.fingerprint)
        if found is None:
            raise NotFound("no such endpoint: name `model`, or a URL as configurations name it")
        name = found
    return cast("Kind", kind), name


async def _check_processor(tx: Transaction, name: str) -> None:
    """Raises NotFound."""
    if not await service_limits.is_processor(tx, name):
        raise NotFound("no such processor: it is not installed here, and no worker and no live batch has it")


def _check(given: LimitPut, kind: Kind, name: str) -> None:
    """Raises Invalid."""
    if not given.model_dump(exclude_none=True):
        raise Invalid([Problem("", "limit_missing", "give at least one limit; DELETE removes them")])
    wrong = [one for one in _RATES if kind != "upstream" and getattr(given, one) is not None]
    if wrong:
        raise Invalid([Problem(f"/{one}", "not_of_this_kind", "of endpoints only") for one in wrong])
    if given.tokens_per_minute is not None and not circuits.of_model(name):
        raise Invalid([Problem("/tokens_per_minute", "not_of_this_kind", "of the model's endpoint only")])


@router.get(
    "",
    summary="List limits of the service",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("LimitAnswer"))),
)
async def list_limits(request: Request) -> Response:
    """By kind and name, with what is in use. Needs the scope `operate`, which `admin` does not include."""
    key = await caller(request, SCOPE)
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, "limits")
    after = page.position.partition("/") if page.position else None
    async with parts(request).database.connection() as connection:
        found, total = await service_limits.page(
            connection, limit=page.fetch, offset=page.skip, after=after and (after[0], after[2])
        )
    rows = pages.rows(page, found, total, lambda use: f"{use.limit.kind}/{use.limit.name}")
    return pages.listing(page, rows, [view(use) for use in rows.shown])


@router.get(
    "/{kind}/{name:path}",
    summary="Get a limit of the service",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("LimitAnswer"))),
)
async def get_limit(request: Request, kind: str, name: str) -> Response:
    """`kind` is tenant, processor or upstream; `name` that of the tenant or the processor, `model`, or a URL."""
    await caller(request, SCOPE)
    Query(request, ()).check()
    of = parts(request)
    kind, name = _named(of, kind, name)
    async with of.database.connection() as connection:
        return answer(view(await service_limits.get(connection, kind, name)))


@router.put(
    "/{kind}/{name:path}",
    summary="Set a limit of the service",
    responses=responses(*CHANGE),
    openapi_extra=documented(body=json_body("LimitPut"), answer=enveloped(ref("LimitAnswer"))),
)
async def put_limit(request: Request, kind: str, name: str) -> Response:
    """In place of the one there was; what is left out is not limited. All workers keep to it within seconds: what is beyond
    it by then ends, and nothing new begins. The name of an `upstream` is `model` (the model's endpoint with the operator's key,
    for all tenants together), or a URL exactly as configurations name it."""
    by = await caller(request, SCOPE)
    Query(request, ()).check()
    of = parts(request)
    of_kind, name = _named(of, kind, name)
    given = await body.read_model(request, LimitPut, MAX_BODY_BYTES)
    _check(given, of_kind, name)
    async with of.database.transaction() as tx:
        if of_kind == "processor" and name not in processors.registry():
            await _check_processor(tx, name)
        old = await service_limits.before(tx, of_kind, name)
        limit = await service_limits.put(tx, of_kind, name, **given.model_dump())
        await service_limits.note(tx, actor(request, by), by.tenant_id, old, limit)
        use = await service_limits.get(tx, limit.kind, limit.name)
    of.wake()
    return answer(view(use))


@router.delete(
    "/{kind}/{name:path}",
    status_code=204,
    summary="Remove a limit of the service",
    responses=responses(*CHANGE),
    openapi_extra=documented(),
)
async def delete_limit(request: Request, kind: str, name: str) -> Response:
    """Within seconds nothing is limited by it any more."""
    by = await caller(request, SCOPE)
    Query(request, ()).check()
    await body.read_nothing(request)
    of = parts(request)
    of_kind, name = _named(of, kind, name)
    async with of.database.transaction() as tx:
        limit = await service_limits.remove(tx, of_kind, name)
        await service_limits.note(tx, actor(request, by), by.tenant_id, limit, None)
    of.wake()
    return Response(status_code=204)
