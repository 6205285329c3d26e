"""What a dialect is, and what all of them need."""

import re
from dataclasses import dataclass
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.envelope import as_json
from gristmill.api.errors import Refusal, Shape
from gristmill.api.parts import parts
from gristmill.domain.errors import InFlight, NotFound
from gristmill.store import batches
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


async def find(request: Request, key: Key, dialect: str, batch_id: UUID) -> Batch:
    """A batch that was made through this dialect. Raises NotFound for any other."""
    async with parts(request).database.connection() as connection:
        batch = await batches.get(connection, key.tenant_id, batch_id)
    if batch.dialect != dialect:
        raise NotFound("no such batch")
    return batch


async def ignore_body(request: Request) -> None:
    """Clients send an empty body as JSON, or none, with what needs none. Raises TooLarge."""
    await body.read(request, _IGNORED_BYTES)
