"""The outermost layer: every request gets an id, a pace, an answer in our shape, a line of log and a count."""

import asyncio
import logging
import secrets
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gristmill import log, metrics
from gristmill.api import errors
from gristmill.api.body import PacedBody
from gristmill.domain.errors import RequestTimeout

logger = logging.getLogger(__name__)

# Each is the one that some official client reads.
_ID_HEADERS = (b"x-request-id", b"request-id")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
# A request that is answered before its body has come: up to so much is read on, more ends the connection.
_READ_ON_BYTES = 1024 * 1024
# Before that end, what still comes is thrown away for so long: a sender whom a reset meets first never sees the answer.
LINGER_SECONDS = 5.0


class Front:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = f"req_{secrets.token_hex(12)}"
        if scope["type"] == "websocket":  # who serves it notes it (api/following.py)
            with log.bind(request_id=scope["request_id"]):
                await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":
            # Every GET answers HEAD, as probes and caches expect. A copy: the server goes by its own, and sends no body.
            scope = {**scope, "method": "GET"}
        exchange = _Exchange(scope, method, PacedBody(receive), send)
        with log.bind(request_id=scope["request_id"]):
            await self._run(scope, exchange)
            exchange.note()

    async def _run(self, scope: Scope, exchange: "_Exchange") -> None:
        try:
            await self._answer(scope, exchange.body.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or 499
        except Exception as error:
            if exchange.started:
                raise  # the server cuts the connection: the reader sees that something is missing
            await errors.response(scope, error)(scope, exchange.body.receive, exchange.send)
        finally:
            if "app" in scope:
                scope["app"].state.parts.room.leave(scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = scope["app"].state.routes.found(scope) if "app" in scope else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, texts = found
        response = await endpoint(Request(scope, receive, send), **texts)
        await response(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, method: str, body: PacedBody, send: Send) -> None:
        self.body = body
        self._method = method
        self.status = 0
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        self._seconds = 0.0
        self._closing = False

    @property
    def started(self) -> bool:
        return self.status != 0

    async def send(self, message: Message) -> None:
        """Raises ClientDisconnect once nobody wants the rest of a body."""
        more = message.get("more_body", False)
        if self._method == "HEAD" and message["type"] == "http.response.body":
            message = {"type": "http.response.body"}
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._seconds = time.perf_counter() - self._began
            self._complete(message)
        elif self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)
        if more and not message.get("more_body", False):
            raise ClientDisconnect

    async def _linger(self) -> None:
        with suppress(TimeoutError, RequestTimeout):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.body.ended:
                    await self.body.receive()

    def _complete(self, message: MutableMapping[str, Any]) -> None:
        headers = message["headers"] = list(message.get("headers", ()))
        request_id = self._scope["request_id"].encode()
        headers += [(name, request_id) for name in _ID_HEADERS]
        headers.append((b"x-content-type-options", b"nosniff"))
        if (rate := self._scope.get("rate")) is not None:
            headers += rate.headers()
        present = {name.lower() for name, _ in headers}
        if b"cache-control" not in present:
            headers.append((b"cache-control", b"no-store"))
        if b"connection" not in present and self._much_unread():
            headers.append((b"connection", b"close"))
        self._closing = not self.body.ended and (b"connection", b"close") in headers

    def _much_unread(self) -> bool:
        if self.body.ended:
            return False
        asked = dict(self._scope["headers"])
        length = asked.get(b"content-length", b"0")
        return b"transfer-encoding" in asked or not length.isdigit() or int(length) > _READ_ON_BYTES

    def note(self) -> None:
        """Names the route, not the path: paths and queries hold what callers wrote."""
        route = getattr(self._scope.get("route"), "path", "unmatched")
        method = self._method if self._method in _METHODS else "other"
        metrics.request_answered(method, route, self.status, self._seconds)
        if route not in _QUIET:
            fields = {"method": method, "route": route, "status": self.status}
            logger.info("request", extra=fields | {"milliseconds": round(self._seconds * 1000, 1)})


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
