"""Reading a request's body: its type and size checked before it is read, its pace while it arrives."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.types import Message, Receive

from gristmill.api.parts import parts
from gristmill.domain.errors import Invalid, Problem, RequestTimeout, TooLarge, UnsupportedMediaType
from gristmill.intake import json, problems
from gristmill.intake.problems import Model

IDLE_SECONDS = 10.0  # between two pieces of a body
GRACE_SECONDS = 28.0  # until then any pace will do: refused and closed within 30 …
MIN_BYTES_PER_SECOND = 64 * 1024  # … from then on this one, over the whole body

# To put them together takes 2 ms; the interpreter lets others run meanwhile, in a thread.
_LONG_BYTES = 4 * 1024 * 1024

T = TypeVar("T", dict[str, Any], list[Any])


class PacedBody:
    """Wraps an ASGI `receive`: a body that drips is a 408, so that slow senders hold no connection for long."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._began = asyncio.get_running_loop().time()
        self._bytes = 0
        self.ended = False

    async def receive(self) -> Message:
        if self.ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._patience()):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout("the body did not arrive in time") from None
        self._bytes += len(message.get("body", b""))
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def _patience(self) -> float:
        elapsed = asyncio.get_running_loop().time() - self._began
        left = GRACE_SECONDS + self._bytes / MIN_BYTES_PER_SECOND - elapsed
        return max(0.0, min(IDLE_SECONDS, left))


async def stream(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The pieces of a body of at most `max_bytes`; a longer one is refused before it is read where it says so."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large(max_bytes)
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        yield piece


async def read(request: Request, max_bytes: int) -> bytes:
    """The whole body. It counts against the room for bodies (`room.py`) until the request is over: Unavailable if there is
    none left."""
    room, held = parts(request).room, []
    async for piece in stream(request, max_bytes):
        room.take(request.scope, len(piece))
        held.append(piece)
    if len(held) == 1:
        return held[0]
    whole: bytes = (
        await asyncio.to_thread(b"".join, held) if sum(map(len, held)) > _LONG_BYTES else b"".join(held)
    )
    return whole


async def read_model(request: Request, model: type[Model], max_bytes: int) -> Model:
    """The body as such a JSON object. Raises what `read_json` does, and Invalid with all that is wrong."""
    return await _parse_model(request, await read_json_text(request, max_bytes), model)


async def read_optional_model(request: Request, model: type[Model], max_bytes: int = 4096) -> Model:
    """As `read_model`, of {} if there is none."""
    return await _parse_model(request, await _optional_text(request, max_bytes), model)


async def _parse_model(request: Request, text: bytes, model: type[Model]) -> Model:
    async with parts(request).aside.turn(text) as run:
        found: Model = await run(_model, text, model)
        return found


def _model(text: bytes, model: type[Model]) -> Model:
    return problems.checked(model, json.parse(text, dict))


async def read_json(request: Request, kind: type[T], max_bytes: int) -> T:
    """The body as strict JSON. Raises UnsupportedMediaType, TooLarge, RequestTimeout, Unavailable, Invalid."""
    return await _parse(request, await read_json_text(request, max_bytes), kind)


async def _parse(request: Request, text: bytes, kind: type[T]) -> T:
    async with parts(request).aside.turn(text) as run:
        value: T = await run(json.parse, text, kind)
        return value


async def read_json_text(request: Request, max_bytes: int) -> bytes:
    """The body, which says that it is JSON. Raises UnsupportedMediaType, TooLarge, RequestTimeout."""
    check_json_type(request)
    return await read(request, max_bytes)


async def read_nothing(request: Request) -> None:
    """For actions that take no body: none at all, or an empty JSON object."""
    if await read_optional(request):
        raise Invalid([Problem("", "extra_forbidden", "this action takes no body")])


async def read_optional(request: Request, max_bytes: int = 4096) -> dict[str, Any]:
    """For actions that can do without a body: {} if there is none."""
    return await _parse(request, await _optional_text(request, max_bytes), dict)


async def _optional_text(request: Request, max_bytes: int) -> bytes:
    text = await read(request, max_bytes)
    if not text:
        return b"{}"
    check_json_type(request)
    return text


def check_json_type(request: Request) -> None:
    media_type, parameters = parse_options_header(request.headers.get("content-type"))
    if media_type != b"application/json":
        raise UnsupportedMediaType("the body must be sent as Content-Type: application/json")
    if parameters.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8"}:
        raise UnsupportedMediaType("JSON is read as UTF-8 only", code="unsupported_charset")
    check_not_encoded(request)


def check_not_encoded(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a compressed body is not accepted", code="unsupported_encoding")


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes")
