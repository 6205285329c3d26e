"""Results of a batch: in pages, one with its attempts, or streamed."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gristmill.api import pages
from gristmill.api.auth import caller
from gristmill.api.batches import id_of
from gristmill.api.envelope import answer, fragment
from gristmill.api.openapi import PAGE, READ, documented, enveloped, paged, parameter, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.result_streams import STREAMS, Filters
from gristmill.api.result_text import ResultText
from gristmill.api.result_views import attempt_view, staged_by, view
from gristmill.api.sources import MAX_ITEMS
from gristmill.db import Transaction
from gristmill.domain.errors import NotFound
from gristmill.domain.states import TERMINAL, ItemStatus
from gristmill.store import batches, results
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.results import Row

PAGE_BYTES = (
    16 * 1024 * 1024
)  # behind so many a page ends, too: a result may have as many, and a page a thousand of them
_FILTERS = ("status", "error_code", "custom_id")


class _ErrorCode(StrEnum):
    """As a query parameter is text."""

    BAD_INPUT = "400"
    EXPIRED = "408"
    CANCELLED = "499"
    FAILED = "500"


class _AnyText(Convertor[str]):
    """The rest of a path, line breaks included: Starlette's own `path` stops at them."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())

router = APIRouter(prefix="/api/v1/batches/{batch_id}/results", tags=["Results"])


@router.get(
    "",
    summary="Results of a batch",
    responses=responses(*READ, 410),
    openapi_extra=documented(
        *PAGE,
        parameter(
            "status", {"enum": [status.value for status in ItemStatus]}, "Only requests in this status"
        ),
        parameter(
            "error_code",
            {"enum": [int(code) for code in _ErrorCode]},
            "Only requests that failed with this code",
        ),
        parameter("custom_id", {"type": "string"}, "Only this request"),
        answer=paged({"anyOf": [ref("ResultAnswer"), ref("StagedResult")]}),
        other_content={
            "application/x-ndjson": {"schema": {"type": "string", "description": "One result per line"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    ),
)
async def list_results(request: Request, batch_id: str) -> Response:
    """At any time, in input order, requests in every state. A page ends early, behind the result with which contents and
    outputs make 16 MiB; `next_page` and `next_cursor` go on behind it.

    With `Accept: application/x-ndjson` or `text/csv` all that match are streamed, without pages. Such a stream begins behind
    the ordinal `cursor`; its header X-Incomplete says whether the batch still runs, and X-Last-Ordinal up to where every
    request had ended when it began."""
    key = await caller(request, "batches:read")
    if stream := _stream_type(request):
        return await _streamed(request, key, batch_id, stream)
    query = Query(request, (*pages.PARAMETERS, *_FILTERS))
    filters = _filters(query)
    page = pages.asked(request, query, key, f"results:{batch_id.lower()}")
    after = int(page.position) if page.position else None
    async with parts(request).database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, id_of(batch_id))
        found, total = await results.rows(
            connection,
            batch,
            limit=page.fetch,
            most_bytes=PAGE_BYTES,
            offset=page.skip,
            after=after,
            **filters,
        )
        cut = results.cut_short(found, PAGE_BYTES)
        rows = pages.rows(page, found, total, lambda row: row["ordinal"], cut=cut)
        shown = await _shown(connection, batch, rows.shown)
    return pages.listing(page, rows, shown)


async def _shown(connection: Transaction, batch: Batch, found: Sequence[Row]) -> Any:
    if staged := staged_by(batch):
        of_rows = [results.result_of(row) for row in found]
        return [view(one, staged) for one in await results.with_checkpoints(connection, batch, of_rows)]
    text = ResultText(view)
    return fragment(f"[{','.join([text.of(row) for row in found])}]")


def _filters(query: Query) -> Filters:
    code = query.choice("error_code", _ErrorCode)
    return {
        "status": query.choice("status", ItemStatus),
        "error_code": int(code) if code else None,
        "custom_id": query.text("custom_id"),
    }


@router.get(
    "/{custom_id:any_text}",
    summary="One result with its input and attempts",
    responses=responses(*READ, 410),
    openapi_extra=documented(answer=enveloped({"anyOf": [ref("ResultDetail"), ref("StagedResultDetail")]})),
)
async def get_result(request: Request, batch_id: str, custom_id: str) -> Response:
    """`attempts` are the runs that did not end the request: failures that were tried again, losses, and what it ended
    with in earlier runs of the batch (attempt 0: without having run)."""
    key = await caller(request, "batches:read")
    Query(request, ()).check()
    if "\0" in custom_id:
        raise NotFound("no such item in this batch")
    async with parts(request).database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, id_of(batch_id))
        result, text, attempts = await results.one(connection, batch, custom_id)
        if staged := staged_by(batch):
            [result] = await results.with_checkpoints(connection, batch, [result])
    detail = {"input": fragment(text), "attempts": [attempt_view(one) for one in attempts]}
    return answer(view(result, staged) | detail)


def _stream_type(request: Request) -> str | None:
    """The first media type of Accept that is a stream of ours; anything else gets pages."""
    wanted = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")]
    return next((one for one in wanted if one in STREAMS), None)


async def _streamed(request: Request, key: Key, batch_id: str, media_type: str) -> Response:
    query = Query(request, (*_FILTERS, "cursor"))
    filters = _filters(query)
    after = query.integer("cursor", -1, MAX_ITEMS, -1) if "cursor" in query.values else None
    query.check()
    of = parts(request)
    async with of.database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, id_of(batch_id))
        settled = await results.settled(connection, batch)
    headers = {
        "X-Incomplete": "false" if batch.status in TERMINAL else "true",
        "X-Last-Ordinal": str(settled),
    }
    stream = STREAMS[media_type](of, batch, filters, after)
    return StreamingResponse(stream, headers=headers, media_type=media_type)
