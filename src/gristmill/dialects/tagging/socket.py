"""The WebSocket of a job: what has been, then each document as it begins and ends, then the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from gristmill.api.auth import listener
from gristmill.api.envelope import dumps
from gristmill.api.following import Follower, following
from gristmill.api.parts import Parts, parts
from gristmill.dialects.tagging import words
from gristmill.dialects.tagging.frames import Frames
from gristmill.domain.errors import Gone, NotFound, ServiceError
from gristmill.domain.states import TERMINAL
from gristmill.store.batches import Batch
from gristmill.store.feed import BEGINNING

KEEP_ALIVE_SECONDS = 30.0
# So long, then the listener is asked to come again: a key that was revoked meanwhile does not listen for ever.
LONGEST_SECONDS = 3600.0
_LAST = ("completed", "cancelled", "error")  # types of the frame that ends it
_POLICY = 1008  # RFC 6455, 7.4.1; those above 1011: the registry of the IANA
_RESTART, _TRY_LATER = 1012, 1013
_OVER = 1000
_AGAIN = "come again"

Frame = dict[str, Any]

router = APIRouter(include_in_schema=False)


@router.websocket("/api/batch/ws/{job_id}")
async def tell(socket: WebSocket, job_id: str) -> None:
    """Whoever leaves stops nothing. What a client says is passed over."""
    await socket.accept()
    with following("websocket") as follower:
        try:
            await _follow(socket, job_id, follower)
        except Exception as error:
            if not follower.lost(error):
                raise
            await _closed(socket, _TRY_LATER, _AGAIN)


async def _follow(socket: WebSocket, job_id: str, follower: Follower) -> None:
    try:
        key = await listener(socket, "batches:read")
        batch = await words.find(parts(socket), key, job_id)
        parts(socket).watch.check_room(key.tenant_id)
    except ServiceError as refused:
        follower.reason = "refused"
        await _refuse(socket, refused)
        return
    follower.batch_id = batch.id
    telling = asyncio.create_task(_tell(socket, parts(socket), batch, follower))
    leaving = asyncio.create_task(_until_gone(socket))
    done, left = await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in done:
        task.result()


async def _refuse(socket: WebSocket, refused: ServiceError) -> None:
    """Accepted before, as a browser is told nothing of a handshake that fails."""
    with suppress(WebSocketDisconnect):
        await socket.send_text(dumps({"type": "error", "message": refused.detail}).decode())
    await _closed(socket, _POLICY, refused.detail[:100])


async def _closed(socket: WebSocket, code: int, reason: str) -> None:
    """Or it is already: who has just left is told nothing."""
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code, reason)


async def _until_gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _tell(socket: WebSocket, of: Parts, batch: Batch, follower: Follower) -> None:
    over = False
    with suppress(WebSocketDisconnect):
        async for frame in _kept_alive(_frames(of, batch)):
            await socket.send_text(dumps(frame).decode())
            over = frame.get("type") in _LAST
        follower.reason = "ended" if over else "sent_away"
        await socket.close(*((_OVER, "") if over else (_RESTART, _AGAIN)))


async def _frames(of: Parts, batch: Batch) -> AsyncIterator[Frame | None]:
    """None: a look that brought nothing. Ends without a last frame where the listener is to come again."""
    frames, clock = Frames(of, batch), asyncio.get_running_loop()
    until = clock.time() + LONGEST_SECONDS
    try:
        async for news in of.watch.follow(batch, BEGINNING, of.draining):
            for frame in await frames.of(news):
                yield frame
            yield None
            if isinstance(news, Batch) and news.status in TERMINAL:
                yield frames.end(news)
            elif isinstance(news, Batch) and clock.time() > until:
                return
    except (NotFound, Gone):
        yield {"type": "error", "job_id": batch.dialect_key, "message": "Job was deleted"}


async def _kept_alive(frames: AsyncIterator[Frame | None]) -> AsyncIterator[Frame]:
    clock = asyncio.get_running_loop()
    spoke = clock.time()
    async for frame in frames:
        if frame is None and clock.time() - spoke < KEEP_ALIVE_SECONDS:
            continue
        spoke = clock.time()
        yield {"type": "keepalive"} if frame is None else frame
