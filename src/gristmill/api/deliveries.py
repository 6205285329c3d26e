"""Webhook deliveries of a batch, and sending one again."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, pages
from gristmill.api.auth import caller
from gristmill.api.batches import id_of
from gristmill.api.envelope import answer
from gristmill.api.openapi import CHANGE, PAGE, READ, documented, enveloped, paged, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query, uuid_of
from gristmill.domain.errors import NotFound
from gristmill.store import batches, deliveries
from gristmill.store.deliveries import Delivery, PastAttempt

router = APIRouter(prefix="/api/v1", tags=["Webhooks"])


def view(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event": f"batch.{delivery.event}",
        "batch_id": delivery.batch_id,
        "url": delivery.url,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "next_at": delivery.next_at,
        "delivered_at": delivery.delivered_at,
        "created_at": delivery.created_at,
        "log": [_attempt_view(one) for one in delivery.log],
    }


def _attempt_view(one: PastAttempt) -> dict[str, Any]:
    return {
        "attempt": one.attempt,
        "sent_at": one.sent_at,
        "duration_ms": one.duration_ms,
        "status_code": one.status_code,
        "error": one.error,
        "response": one.response,
    }


@router.get(
    "/batches/{batch_id}/deliveries",
    summary="Webhook deliveries of a batch",
    responses=responses(*READ, 410),
    openapi_extra=documented(*PAGE, answer=paged(ref("DeliveryAnswer"))),
)
async def list_deliveries(request: Request, batch_id: str) -> Response:
    """Oldest first, each with its newest 100 attempts."""
    key = await caller(request, "batches:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, f"deliveries:{batch_id.lower()}")
    async with parts(request).database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, id_of(batch_id))
        every = await deliveries.list_for_batch(connection, key.tenant_id, batch.id)
    # A batch has few: one per event and run.
    first = next((i + 1 for i, one in enumerate(every) if str(one.id) == page.position), page.skip)
    rows = pages.rows(page, every[first : first + page.fetch], len(every), lambda one: one.id)
    return pages.listing(page, rows, [view(one) for one in rows.shown])


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a webhook again",
    responses=responses(*CHANGE, 409),
    openapi_extra=documented(answer=enveloped(ref("DeliveryAnswer")), status=202),
)
async def redeliver(request: Request, delivery_id: str) -> Response:
    """The same event id and the same bytes, now and from the start of the schedule. Not while it is pending."""
    key = await caller(request, "batches:write")
    Query(request, ()).check()
    await body.read_nothing(request)
    found = uuid_of(delivery_id)
    if found is None:
        raise NotFound("no such delivery")
    of = parts(request)
    async with of.database.transaction() as tx:
        delivery = await deliveries.redeliver(tx, key.tenant_id, found)
    of.wake()
    return answer(view(delivery), 202)
