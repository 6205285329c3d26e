"""The event feed of a batch: server-sent events (HTML Living Standard, 9.2), resumable from the database."""

import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gristmill.api import batches as batches_api
from gristmill.api import result_views
from gristmill.api.auth import caller
from gristmill.api.batches import find
from gristmill.api.envelope import dumps
from gristmill.api.following import Follower, following
from gristmill.api.openapi import READ, documented, header, parameter, responses
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.domain.errors import Gone, Invalid, NotFound, Problem
from gristmill.domain.states import TERMINAL
from gristmill.store import feed
from gristmill.store.batches import Batch
from gristmill.store.feed import BEGINNING, Position, Window

KEEP_ALIVE_SECONDS = 15.0
# So long, then the client is asked to come again: a key that was revoked meanwhile does not read on for ever.
LONGEST_SECONDS = 3600.0
RETRY_MILLISECONDS = 2000  # after which a client whose connection broke comes again
_ID = re.compile(r"([1-9][0-9]{0,4})-(0|[1-9][0-9]{0,6})(\.end)?")
_FIELD = "Last-Event-ID"
_PROGRESS = (
    "status",
    "total_requests",
    "completed_requests",
    "failed_requests",
    "pending_requests",
    "processing_requests",
    "progress",
    "throughput",
    "eta_seconds",
    "waiting_reason",
)
_BLANK = bytes.maketrans(b"\r\n", b"  ")
_DRAIN = b"event: drain\ndata: {}\n\n"
_SETTLES = ("throughput", "eta_seconds")  # change by themselves: no news alone

router = APIRouter(prefix="/api/v1/batches/{batch_id}/events", tags=["Results"])

_ID_HEADER = header(
    _FIELD,
    {"type": "string"},
    "The id of the last event that was seen: what came after it follows, each item once. Browsers send it by themselves",
)
_ID_PARAMETER = parameter(
    "last_event_id",
    {"type": "string"},
    "The same, for the first connection of clients that cannot set headers",
)


@router.get(
    "",
    summary="Follow a batch",
    responses=responses(*READ),
    openapi_extra=documented(_ID_HEADER, _ID_PARAMETER),
)
async def follow_batch(request: Request, batch_id: str) -> Response:
    """Server-sent events: `status` (the batch, at first and whenever its status has changed; that of an ended batch comes last),
    `item` (a result, as it ends; with an id), `progress` (counts, at most four times a second), and comments that keep the
    connection alive. Begins with all that has ended before; ends after the `status` of a batch that has ended, or with `drain`
    when this process stops or its database is away: come again then, with the last id. Who comes again after the end gets 204,
    which tells browsers to stay away. `deleted` ends it, too."""
    key = await caller(request, "batches:read")
    query = Query(request, ("last_event_id",))
    given = request.headers.get(_FIELD) or query.text("last_event_id", 32)
    query.check()
    of = parts(request)
    batch = await find(of, key, batch_id)
    position, seen_end = _position(given, batch)
    if seen_end and batch.status in TERMINAL:
        return Response(status_code=204)
    of.watch.check_room(key.tenant_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _stream(of, batch, position), media_type="text/event-stream; charset=utf-8", headers=headers
    )


def _position(given: str | None, batch: Batch) -> tuple[Position, bool]:
    """Where to go on, and whether the end of the present run was seen. Raises Invalid for an id that this feed never gave."""
    if not given:
        return BEGINNING, False
    found = _ID.fullmatch(given)
    position = Position(int(found[1]), int(found[2])) if found else BEGINNING
    if found is None or position > feed.end_of(batch) or position.place > batch.total:
        raise Invalid([Problem(_FIELD, "unknown_event", "no event of this batch has such an id")])
    return position, found[3] is not None and position.run == batch.run


async def _stream(of: Parts, batch: Batch, position: Position) -> AsyncIterator[bytes]:
    with following("sse", batch.id) as follower:
        try:
            async for text in _told(of, batch, position, follower):
                yield text
        except (NotFound, Gone):
            follower.reason = "deleted"
            yield b"event: deleted\ndata: {}\n\n"
        except Exception as error:
            if not follower.lost(error):
                raise
            yield _DRAIN  # what has been told stays true; by the id of the last the rest is found


async def _told(of: Parts, batch: Batch, position: Position, follower: Follower) -> AsyncIterator[bytes]:
    teller = _Teller(batch)
    until = time.monotonic() + LONGEST_SECONDS
    # The status of an ended batch comes last and only there: a reader may take it for the end.
    first = b"" if batch.status in TERMINAL else teller.status(batch)
    yield b"retry: %d\n\n" % RETRY_MILLISECONDS + first
    async for news in of.watch.follow(batch, position, of.draining, staged=teller.staged is not None):
        if text := teller.tell(news):
            yield text
        over = of.draining.is_set() or time.monotonic() > until
        if over and isinstance(news, Batch) and news.status not in TERMINAL:
            follower.reason = "sent_away"
            yield _DRAIN
            return
    follower.reason = "ended"


class _Teller:
    """What one reader has been told, and what is news to it."""

    def __init__(self, batch: Batch) -> None:
        self._status = batch.status
        self.staged = result_views.staged_by(batch)
        self._progress: dict[str, Any] = {}
        self._spoke = time.monotonic()

    def tell(self, news: Batch | Window) -> bytes:
        """Empty: it knows."""
        text = b"".join(self._items(news) if isinstance(news, Window) else self._of(news))
        if not text and time.monotonic() - self._spoke < KEEP_ALIVE_SECONDS:
            return b""
        self._spoke = time.monotonic()
        return text or b": keep-alive\n\n"

    def status(self, batch: Batch) -> bytes:
        return _event("status", batches_api.view(batch))

    def _items(self, window: Window) -> Iterator[bytes]:
        for (run, place), result in window.ended:
            yield _event("item", result_views.view(result, self.staged), f"{run}-{place}")

    def _of(self, batch: Batch) -> Iterator[bytes]:
        view = batches_api.view(batch)
        progress = {name: view[name] for name in _PROGRESS}
        steady = {name: value for name, value in progress.items() if name not in _SETTLES}
        if steady != self._progress:
            self._progress = steady
            yield _event("progress", progress)
        if batch.status in TERMINAL:
            run, place = feed.end_of(batch)
            yield _event("status", view, f"{run}-{place}.end")
        elif batch.status is not self._status:
            yield _event("status", view)
        self._status = batch.status


def _event(name: str, data: dict[str, Any], identifier: str | None = None) -> bytes:
    """One line of data: what line breaks JSON has are blanks. Without an id of its own, a client keeps the last."""
    head = f"id: {identifier}\n" if identifier else ""
    return f"{head}event: {name}\ndata: ".encode() + dumps(data).translate(_BLANK) + b"\n\n"
