"""API keys: made, shown once, rotated, revoked. Nobody gives away more than he has."""

from collections.abc import Iterable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, pages
from gristmill.api.auth import actor, caller
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
from gristmill.api.parts import parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.schemas import Name, Strict
from gristmill.domain.errors import Forbidden, Invalid, NotFound, Problem
from gristmill.intake import problems
from gristmill.store import acts, keys
from gristmill.store.keys import Key, Scope

MAX_BODY_BYTES = 16 * 1024
MAX_LIFE_SECONDS = 315_360_000  # ten years
MAX_OVERLAP_SECONDS = 2_592_000  # thirty days

router = APIRouter(prefix="/api/v1/api-keys", tags=["Keys"])

Life = Annotated[int, Field(ge=60, le=MAX_LIFE_SECONDS)]


class KeyCreate(Strict):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=50)] = Field(
        description="What it may do; `admin` is everything in your tenant. You can only give what your own credentials have, "
        "and never `operate`, which only the command line gives."
    )
    expires_in_seconds: Life | None = Field(
        None, description="It opens nothing after so long; left out: never"
    )


class KeyRotate(Strict):
    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP_SECONDS)] = Field(
        86_400, description="The old key goes on opening for so long, unless it expires earlier"
    )
    expires_in_seconds: Life | None = Field(
        None, description="Of the new key; left out: as long as the old one was made for"
    )


def view(key: Key, plain: str | None = None) -> dict[str, Any]:
    """With its text only in the one answer to the request that made it."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "last_four": key.last_four,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "replaced_by": key.replaced_by,
    } | ({} if plain is None else {"key": plain})


def id_of(key_id: str) -> UUID:
    """Raises NotFound for what cannot be an id."""
    found = uuid_of(key_id)
    if found is None:
        raise NotFound("no such API key")
    return found


def _check_may_give(by: Key, scopes: Iterable[str]) -> None:
    if not by.may_give(scopes):
        raise Forbidden(
            "your credentials lack scopes that this API key has, or it has `operate`, which only the command line gives",
            code="exceeds_scopes",
        )


def _check_touch(by: Key, one: Key) -> None:
    """Everybody may rotate and revoke his own; another's only if it may do nothing that he may not."""
    if one.id != by.id:
        _check_may_give(by, one.scopes)


@router.post(
    "",
    status_code=201,
    summary="Create an API key",
    responses=responses(*WRITE),
    openapi_extra=documented(body=json_body("KeyCreate"), answer=enveloped(ref("NewKeyAnswer")), status=201),
)
async def create_key(request: Request) -> Response:
    """`key` is shown in this answer only. A request sent twice makes two keys."""
    by = await caller(request, "keys:write")
    given = await body.read_model(request, KeyCreate, MAX_BODY_BYTES)
    if given.name == keys.CONFIGURED:
        raise Invalid([Problem("/name", "reserved_name", "this name is kept for the key of that setting")])
    _check_may_give(by, given.scopes)
    of = parts(request)
    async with of.database.engine.begin() as connection:
        made, plain = await keys.create(
            connection,
            of.vault,
            by.tenant_id,
            name=given.name,
            scopes=given.scopes,
            life_seconds=given.expires_in_seconds,
        )
        await acts.note(
            connection,
            actor(request, by),
            "api_key.created",
            made,
            expires_in_seconds=given.expires_in_seconds,
        )
    return answer(view(made, plain), 201, headers={"Location": f"/api/v1/api-keys/{made.id}"})


@router.get(
    "",
    summary="List API keys",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("KeyAnswer"))),
)
async def list_keys(request: Request) -> Response:
    """Of your tenant, newest first; expired and revoked ones, too. Their text is never shown again."""
    by = await caller(request, "keys:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, by, "api-keys")
    async with parts(request).database.engine.connect() as connection:
        found, total = await keys.page(
            connection,
            by.tenant_id,
            limit=page.fetch,
            offset=page.skip,
            before=page.before,
        )
    rows = pages.rows(page, found, total, lambda key: key.id)
    return pages.listing(page, rows, [view(key) for key in rows.shown])


@router.get(
    "/{key_id}",
    summary="Get an API key",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("KeyAnswer"))),
)
async def get_key(request: Request, key_id: str) -> Response:
    """Without its text."""
    by = await caller(request, "keys:read")
    Query(request, ()).check()
    async with parts(request).database.engine.connect() as connection:
        return answer(view(await keys.get(connection, by.tenant_id, id_of(key_id))))


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    summary="Rotate an API key",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(
        body=json_body("KeyRotate", required=False), answer=enveloped(ref("NewKeyAnswer")), status=201
    ),
)
async def rotate_key(request: Request, key_id: str) -> Response:
    """Makes a key with the name and the scopes of this one, shown in this answer only. This one stays valid for the
    overlap, then within 5 seconds opens nothing. A key is rotated once."""
    by = await caller(request, "keys:write")
    given = problems.checked(KeyRotate, await body.read_optional(request, MAX_BODY_BYTES))
    of = parts(request)
    async with of.database.engine.begin() as connection:
        old = await keys.to_change(connection, by.tenant_id, id_of(key_id))
        _check_touch(by, old)
        new, plain = await keys.rotate(
            connection,
            of.vault,
            old,
            overlap_seconds=given.overlap_seconds,
            life_seconds=_life(old) if given.expires_in_seconds is None else given.expires_in_seconds,
        )
        await acts.note(
            connection,
            actor(request, by),
            "api_key.rotated",
            old,
            replaced_by=str(new.id),
            overlap_seconds=given.overlap_seconds,
        )
    of.keys.forget(old.id)
    return answer(view(new, plain), 201, headers={"Location": f"/api/v1/api-keys/{new.id}"})


def _life(old: Key) -> float | None:
    return None if old.expires_at is None else (old.expires_at - old.created_at).total_seconds()


@router.post(
    "/{key_id}/revoke",
    summary="Revoke an API key",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(answer=enveloped(ref("KeyAnswer"))),
)
async def revoke_key(request: Request, key_id: str) -> Response:
    """It opens nothing any more, within 5 seconds in every process. The last admin key of a tenant cannot be revoked here,
    so that nobody locks himself out: make another one first. On the command line it can."""
    by = await caller(request, "keys:write")
    Query(request, ()).check()
    await body.read_nothing(request)
    of = parts(request)
    async with of.database.engine.begin() as connection:
        key = await keys.to_change(connection, by.tenant_id, id_of(key_id))
        _check_touch(by, key)
        await keys.check_not_last(connection, key)
        await keys.revoke(connection, by.tenant_id, key.id)
        await acts.note(connection, actor(request, by), "api_key.revoked", key)
        revoked = await keys.get(connection, by.tenant_id, key.id)
    of.keys.forget(key.id)
    return answer(view(revoked))
