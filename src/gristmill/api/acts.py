"""The log of administrative acts: who made, rotated and revoked which API key; and who set which limit of the service."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import pages
from gristmill.api.auth import caller
from gristmill.api.openapi import LIST, PAGE, documented, paged, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.store import acts
from gristmill.store.acts import Act
from gristmill.store.keys import OPERATE

router = APIRouter(prefix="/api/v1/audit-log", tags=["Keys"])


def view(act: Act) -> dict[str, Any]:
    return {
        "id": act.id,
        "at": act.at,
        "action": act.action,
        "target_id": act.target_id,
        "actor": {"kind": act.actor_kind, "id": act.actor_id, "name": act.actor_name},
        "address": act.address,
        "request_id": act.request_id,
        "details": act.details,
    }


@router.get(
    "",
    summary="List administrative acts",
    responses=responses(*LIST),
    openapi_extra=documented(*PAGE, answer=paged(ref("ActAnswer"))),
)
async def list_acts(request: Request) -> Response:
    """Of your tenant, newest first: by requests and on the command line. Nothing is removed from it. `address` is the
    other end of the connection, which may be a proxy. With the scope `operate` also what anybody did to the limits of the
    service; nobody else sees that."""
    key = await caller(request, "audit:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, "audit-log")
    async with parts(request).database.engine.connect() as connection:
        found, total = await acts.page(
            connection,
            key.tenant_id,
            limit=page.fetch,
            offset=page.skip,
            before=page.before,
            operates=key.allows(OPERATE),
        )
    rows = pages.rows(page, found, total, lambda act: act.id)
    return pages.listing(page, rows, [view(act) for act in rows.shown])
