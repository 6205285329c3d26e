"""Results of a batch: pages, one with its attempts, and streams of all of them."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gristmill import processors
from gristmill.api import pages
from gristmill.api.auth import caller
from gristmill.api.batches import id_of
from gristmill.api.envelope import answer, dumps, fragment, listing
from gristmill.api.openapi import PAGE, READ, documented, enveloped, paged, parameter, ref, responses
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.api.result_text import ResultText
from gristmill.api.sources import MAX_ITEMS
from gristmill.db import Transaction
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.errors import NotFound
from gristmill.domain.states import TERMINAL, ItemStatus
from gristmill.intake.draft import AnyProcessor
from gristmill.store import batches, results
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.results import Attempt, Result, Row

WINDOW = 500  # items read at once for a stream: a quarter of a MiB of small ones, made text of while the next are read; at most …
WINDOW_BYTES = 4 * 1024 * 1024  # … and behind so many bytes of theirs the next window begins
PAGE_BYTES = (
    16 * 1024 * 1024
)  # behind so many a page ends, too: a result may have as many, and a page a thousand of them
_FILTERS = ("status", "error_code", "custom_id")
_COLUMNS = (
    "custom_id",
    "status",
    "response_content",
    "output",
    "error_code",
    "error_type",
    "error_message",
    "prompt_tokens",
    "completion_tokens",
    "history_id",
    "conversation_id",
    "attempt",
    "processed_at",
)

Filters = dict[str, Any]


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


def view(result: Result, staged: AnyProcessor | None = None) -> dict[str, Any]:
    """The nine keys of seed 004 first. JSON text from the database goes out as it is. `staged`: see `staged_by`."""
    shown = {
        "custom_id": result.custom_id,
        "status": result.status,
        "response_content": result.content,
        "response_usage": fragment(result.usage),
        "error_code": result.code,
        "error_message": orjson.loads(result.error)["message"] if result.error else None,
        "history_id": result.history_id,
        "conversation_id": result.conversation_id,
        "processed_at": result.processed_at,
        "output": fragment(result.output),
        "error": fragment(result.error),
        "attempt": result.attempt,
        "started_at": result.started_at,
        "ordinal": result.ordinal,
    }
    return shown if staged is None else shown | stage_view(result.status, result.checkpoint, staged)


def staged_by(batch: Batch) -> AnyProcessor | None:
    """The batch's processor, if its items have stages to show."""
    return staged(batch.processor)


def staged(processor: str) -> AnyProcessor | None:
    """The processor of that name, if its items have stages to show."""
    found = processors.registry().get(processor)
    return found if found is not None and found.uses_checkpoints else None


def stage_view(status: ItemStatus, saved: Checkpoint | None, processor: AnyProcessor) -> dict[str, Any]:
    """Only for items that have a stage."""
    stage = processor.stage(status, saved.stage if saved else None)
    if stage is None:
        return {}
    return {
        "stage": stage,
        "processed_chunks": saved.done if saved else None,
        "total_chunks": saved.total if saved else None,
    }


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    return {
        "run": attempt.run,
        "attempt": attempt.attempt,
        "error_code": attempt.code,
        "error": fragment(attempt.error),
        "usage": fragment(attempt.usage),
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
    }


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
    return listing(shown, pages.pagination(request, query, key, page, rows))


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


# --- streams: window by window, no connection held while the reader takes its time ------------------------------


async def windows(
    of: Parts, batch: Batch, filters: Filters, after: int | None = None, *, with_stages: bool = False
) -> AsyncIterator[Sequence[Result]]:
    """All that match behind the ordinal `after`, in input order, in windows of bounded size. No connection is held between
    them."""
    async for rows in _windows(of, batch, filters, after):
        found = [results.result_of(row) for row in rows]
        if with_stages:
            async with of.database.connection() as connection:
                found = await results.with_checkpoints(connection, batch, found)
        yield found


async def _windows(
    of: Parts, batch: Batch, filters: Filters, after: int | None
) -> AsyncIterator[Sequence[Row]]:
    """Each is asked for before the one before is made text of, and read while that is made and sent: Postgres and this
    process work side by side. So a stream holds two of them."""
    reading, _ = _reading(of, batch, filters, after)
    try:
        while True:
            found = await reading
            more = _goes_on(batch, found)
            if more:
                reading, asked = _reading(of, batch, filters, found[-1]["ordinal"])
                await asked.wait()
            if found:
                yield found
            if not more:
                return
    finally:
        reading.cancel()


def _goes_on(batch: Batch, found: Sequence[Row]) -> bool:
    """Whether there may be more behind a window."""
    ended_early = len(found) < WINDOW and not results.cut_short(found, WINDOW_BYTES)
    return not ended_early and found[-1]["ordinal"] < batch.total - 1


def _reading(
    of: Parts, batch: Batch, filters: Filters, after: int | None
) -> tuple[asyncio.Task[list[Row]], asyncio.Event]:
    """And when Postgres has been asked: a task that was only made does nothing before its maker waits for something, and a
    stream that is read fast enough waits for its next window only."""
    asked = asyncio.Event()

    async def read() -> list[Row]:
        try:
            async with of.database.connection() as connection:
                asked.set()  # heard only when what follows waits for the answer
                found, _ = await results.rows(
                    connection,
                    batch,
                    limit=WINDOW,
                    most_bytes=WINDOW_BYTES,
                    after=after,
                    counted=False,
                    **filters,
                )
                return found
        finally:
            asked.set()

    task = asyncio.create_task(read())
    task.add_done_callback(_take_exception)  # its reader may have gone away
    return task, asked


def _take_exception(reading: asyncio.Task[Any]) -> None:
    if not reading.cancelled():
        reading.exception()


async def _ndjson(of: Parts, batch: Batch, filters: Filters, after: int | None) -> AsyncIterator[bytes]:
    if staged := staged_by(batch):
        async for window in windows(of, batch, filters, after, with_stages=True):
            yield b"".join([dumps(view(result, staged)) + b"\n" for result in window])
        return
    text = ResultText(view)
    async for rows in _windows(of, batch, filters, after):
        yield ("\n".join([text.of(row) for row in rows]) + "\n").encode()


async def _csv(of: Parts, batch: Batch, filters: Filters, after: int | None) -> AsyncIterator[bytes]:
    if after is None:
        yield _table([_COLUMNS])
    async for window in windows(of, batch, filters, after):
        yield _table([_cells(result) for result in window])


def _table(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cells(result: Result) -> list[Any]:
    error = orjson.loads(result.error) if result.error else {}
    usage = orjson.loads(result.usage) if result.usage else {}
    return [
        _safe(result.custom_id),
        result.status.value,
        _safe(result.content),
        _safe(result.output),
        result.code,
        _safe(error.get("type")),
        _safe(error.get("message")),
        usage.get("total_prompt_tokens"),
        usage.get("total_completion_tokens"),
        result.history_id,
        result.conversation_id,
        result.attempt,
        result.processed_at.isoformat().replace("+00:00", "Z") if result.processed_at else None,
    ]


def _safe(text: str | None) -> str | None:
    """A cell that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV injection)."""
    return f"'{text}" if text and text[0] in "=+-@\t\r\n" else text


_STREAMS: dict[str, Callable[[Parts, Batch, Filters, int | None], AsyncIterator[bytes]]] = {
    "application/x-ndjson": _ndjson,
    "text/csv": _csv,
}


def _stream_type(request: Request) -> str | None:
    """The first media type of Accept that is a stream of ours; anything else gets pages."""
    wanted = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")]
    return next((one for one in wanted if one in _STREAMS), None)


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
    stream = _STREAMS[media_type](of, batch, filters, after)
    return StreamingResponse(stream, headers=headers, media_type=media_type)
