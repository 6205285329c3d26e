"""Pages of a list: by limit and offset, or by a signed cursor that stays flat at any depth."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import envelope
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.domain.errors import Invalid, Problem
from gristmill.store.keys import Key
from gristmill.vault import SIGNATURE_BYTES

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
PARAMETERS = ("limit", "offset", "cursor")
_FAR = 1_000_000_000  # no list is that long; what lies behind it is an empty page all the same
_MAX_OFFSET = 2**53 - 1  # the largest integer that every JSON reader keeps

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page:
    """What was asked for. `position` is the text inside the cursor: the last row of the page before."""

    request: Request
    query: Query
    key: Key
    limit: int
    offset: int
    position: str | None
    list_name: str

    @property
    def before(self) -> UUID | None:
        """The position, in a list by id with the newest first."""
        return UUID(self.position) if self.position else None

    @property
    def skip(self) -> int:
        return min(self.offset, _FAR)

    @property
    def fetch(self) -> int:
        """One more than shown, when only that tells whether there is a next page."""
        return self.limit + (self.position is not None)


@dataclass(frozen=True, slots=True)
class Rows(Generic[Row]):
    """A page that was read: `last` is the position of its last row."""

    shown: Sequence[Row]
    total: int
    more: bool
    last: str | None
    cut: bool = False  # it ended before its limit, and not for want of rows


def asked(request: Request, query: Query, key: Key, list_name: str) -> Page:
    """`list_name` ties a cursor to one list; the key's tenant ties it to its owner. Raises Invalid, all problems at once."""
    limit = query.integer("limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
    offset = min(query.integer("offset", 0, None, 0), _MAX_OFFSET)
    query.check()
    cursor = query.values.get("cursor")
    if cursor is not None and "offset" in query.values:
        raise Invalid([Problem("cursor", "cursor_and_offset", "give either cursor or offset, not both")])
    position = None if cursor is None else opened(request, key, list_name, cursor)
    return Page(request, query, key, limit, offset, position, list_name)


def rows(page: Page, found: Sequence[Row], total: int, position: Any, *, cut: bool = False) -> Rows[Row]:
    """Cuts what was fetched to what is shown; `position(row)` is what a cursor keeps of a row. `cut`: they were too large for
    more of them."""
    shown = found[: page.limit]
    cut = cut and len(found) <= page.limit
    more = (cut or len(found) > page.limit) if page.position is not None else page.offset + len(shown) < total
    return Rows(shown, total, more and bool(shown), str(position(shown[-1])) if shown else None, cut)


def listing(page: Page, read: Rows[Any], shown: Any) -> Response:
    """`shown`: the rows as they go out, a list or JSON text of one."""
    return envelope.listing(shown, _pagination(page, read))


def _pagination(page: Page, read: Rows[Any]) -> dict[str, Any]:
    """The object of seed 004, and `next_cursor` beside it. Links keep every filter."""
    request = page.request
    cursor = (
        seal(request, page.key, page.list_name, read.last) if read.more and read.last is not None else None
    )
    filters = {name: value for name, value in page.query.values.items() if name not in PARAMETERS}
    by_offset = page.position is None
    step = len(read.shown) if read.cut else page.limit
    following = {"offset": page.offset + step} if by_offset else {"cursor": cursor}
    previous = {"offset": max(0, page.offset - page.limit)}
    return {
        "limit": page.limit,
        "offset": page.offset if by_offset else None,
        "total_records": read.total,
        "total_pages": -(-read.total // page.limit),
        "current_page": page.offset // page.limit + 1 if by_offset else None,
        "next_page": _link(request, following, page.limit, filters) if read.more else None,
        "prev_page": _link(request, previous, page.limit, filters) if page.offset else None,
        "next_cursor": cursor,
    }


def _link(request: Request, where: Mapping[str, Any], limit: int, filters: Mapping[str, str]) -> str:
    text = urlencode({**where, "limit": limit, **filters}, quote_via=quote)
    return f"{base_url(request)}{quote(request.scope['path'])}?{text}"


def base_url(request: Request) -> str:
    """Where absolute links begin: as configured, never as the Host header says."""
    settings = parts(request).settings
    if settings.public_url:
        return settings.public_url
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server = request.scope.get("server")
    port = settings.port or (server[1] if server else 80)  # 0: the system chose one
    return f"http://{host}:{port}"


def _payload(key: Key, list_name: str, position: bytes) -> bytes:
    return b"cursor:" + key.tenant_id.bytes + list_name.encode() + b":" + position


def seal(request: Request, key: Key, list_name: str, position: str) -> str:
    """A cursor: the position, tied to its list and to the key's tenant."""
    text = position.encode()
    signature = parts(request).vault.sign(_payload(key, list_name, text))
    return base64.urlsafe_b64encode(signature + text).decode().rstrip("=")


def opened(request: Request, key: Key, list_name: str, cursor: str) -> str:
    """The position in a cursor that `seal` made for this list. Raises Invalid."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    signature, position = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
    if not parts(request).vault.verify(_payload(key, list_name, position), signature):
        raise Invalid([Problem("cursor", "invalid_cursor", "this cursor does not belong to this list")])
    return position.decode()
