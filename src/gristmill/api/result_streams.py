"""All results of a batch as a stream: window by window, no connection held while the reader takes its time."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from gristmill.api.envelope import dumps
from gristmill.api.parts import Parts
from gristmill.api.result_text import ResultText
from gristmill.api.result_views import staged_by, view
from gristmill.store import results
from gristmill.store.batches import Batch
from gristmill.store.results import Result, Row

WINDOW = 500  # items read at once for a stream: a quarter of a MiB of small ones, made text of while the next are read; at most …
WINDOW_BYTES = 4 * 1024 * 1024  # … and behind so many bytes of theirs the next window begins
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


STREAMS: dict[str, Callable[[Parts, Batch, Filters, int | None], AsyncIterator[bytes]]] = {
    "application/x-ndjson": _ndjson,
    "text/csv": _csv,
}
