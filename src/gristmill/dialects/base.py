"""What a dialect is, and what all of them need."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.envelope import as_json
from gristmill.api.errors import Refusal, Shape
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.domain.errors import Conflict, InFlight, NotFound
from gristmill.domain.states import BatchStatus
from gristmill.store import batches, origins, transitions
from gristmill.store.batches import Batch
from gristmill.store.keys import Key

_HEX = re.compile(r"[0-9a-f]{32}")
_IGNORED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Dialect:
    """`router`: its routes, all with `include_in_schema=False` (their contract is the other system's own document).
    `paths`: matches every path that is its own, unknown ones too. `refused`: an error body as its clients read it."""

    name: str
    router: APIRouter
    paths: re.Pattern[str]
    refused: Shape


def refusal(refused: Refusal, body: object, status: int | None = None) -> Response:
    """`body` as JSON, with the headers of the refusal. A conflict that will stay one says so: official clients send a
    409 again, up to six times, unless they read `x-should-retry: false`."""
    headers = dict(refused.headers)
    if refused.status == 409 and refused.code != InFlight.code:
        headers["x-should-retry"] = "false"
    return as_json(body, status or refused.status, headers)


def outward(prefix: str, row_id: UUID) -> str:
    """An id as the other system writes them: `batch_` and 32 hexadecimal digits."""
    return f"{prefix}{row_id.hex}"


def inward(prefix: str, text: str) -> UUID:
    """The id behind `outward`. Raises NotFound for what cannot be one."""
    digits = text.removeprefix(prefix)
    if not text.startswith(prefix) or not _HEX.fullmatch(digits):
        raise NotFound("no such id")
    return UUID(digits)


def position(query: Query, name: str, prefix: str) -> UUID | None:
    """The id that a page of a list begins behind, or ends before."""
    text = query.text(name)
    if text is None:
        return None
    try:
        return inward(prefix, text)
    except NotFound:
        query.wrong(name, "invalid_cursor", "is no id of this list")
        return None


def facts(batch: Batch) -> dict[str, Any]:
    """What its dialect keeps of a batch."""
    found: dict[str, Any] = orjson.loads(batch.dialect_facts or "{}")
    return found


async def find(request: Request, key: Key, dialect: str, batch_id: UUID) -> Batch:
    """A batch that was made through this dialect. Raises NotFound for any other."""
    async with parts(request).database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, batch_id)
    if batch.dialect != dialect:
        raise NotFound("no such batch")
    return batch


async def cancelled(
    of: Parts, batch: Batch, refused: Callable[[Batch], str], noted: Mapping[str, Any] | None = None
) -> Batch:
    """The batch once it is cancelled or about to be: whoever cancels twice is no worse off. `noted`: facts to keep of the first
    time. Raises Conflict, in the words of `refused`, for one that has ended."""
    try:
        async with of.database.transaction() as tx:
            found = await transitions.cancel(tx, batch.tenant_id, batch.id)
            if noted is not None:
                await origins.note_facts(tx, batch.tenant_id, batch.id, noted)
                found = await batches.get(tx, batch.tenant_id, batch.id)
    except Conflict:
        async with of.database.connection() as connection:
            found = await batches.get(connection, batch.tenant_id, batch.id)
        if found.status is not BatchStatus.CANCELLING:
            raise Conflict(refused(found), code="wrong_status") from None
    of.wake()
    return found


async def ignore_body(request: Request) -> None:
    """Clients send an empty body as JSON, or none, with what needs none. Raises TooLarge."""
    await body.read(request, _IGNORED_BYTES)
