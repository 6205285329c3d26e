"""Lists as `{items, next_page_token}`: a token is a signed place in its list, null behind the last page."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import pages
from gristmill.api.envelope import as_json
from gristmill.api.query import Query
from gristmill.domain.errors import Invalid, Problem
from gristmill.store.keys import Key

DEFAULT_SIZE = 50
MAX_SIZE = 1000
MOST_READ = 100_000  # rows for one page of what a filter leaves: as many as a directory has files
PARAMETERS = ("page_size", "page_token")
PERIOD = ("created_at_on_or_after", "created_at_on_or_before")
_MOMENT = timedelta(microseconds=1)  # the clock of the database has no finer one

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Asked:
    size: int
    before: UUID | None  # the last row of the page before
    list_name: str


def asked(request: Request, query: Query, key: Key, list_name: str) -> Asked:
    """Raises Invalid, all problems of the query at once. A larger size than there is means the largest."""
    size = min(query.integer("page_size", 1, None, DEFAULT_SIZE), MAX_SIZE)
    query.check()
    token = query.values.get("page_token")
    position = pages.opened(request, key, list_name, token) if token else None
    return Asked(size, UUID(position) if position else None, list_name)


@dataclass(frozen=True, slots=True)
class List(Generic[Row]):
    """`fetch`: so many rows before that one, newest first. `row_id`: by which they are ordered."""

    fetch: Callable[[int, UUID | None], Awaitable[Sequence[Row]]]
    row_id: Callable[[Row], UUID]

    async def page(
        self, page: Asked, keep: Callable[[Row], bool] | None = None
    ) -> tuple[list[Row], UUID | None]:
        """The rows to be shown, and where the next page begins; None: there is none. Official clients end at a page
        without rows, so it is read on until one is full or the list is at its end. Raises Invalid after MOST_READ rows."""
        found: list[Row] = []
        before, size = page.before, page.size + 1 if keep is None else MAX_SIZE + 1
        for _ in range(-(-MOST_READ // MAX_SIZE)):
            rows = await self.fetch(size, before)
            found += [row for row in rows if keep is None or keep(row)]
            if len(found) > page.size:
                return found[: page.size], self.row_id(found[page.size - 1])
            if len(rows) < size:
                return found, None
            before = self.row_id(rows[-1])
        detail = f"more than {MOST_READ:,} to look through for one page: say more, or ask for fewer at a time"
        raise Invalid([Problem("", "search_too_broad", detail)])


def period(query: Query) -> tuple[datetime | None, datetime | None]:
    """What lies between these two was created in the period asked for, its ends included."""
    after, before = (query.instant(name) for name in PERIOD)
    return after and _moved(after, -_MOMENT), before and _moved(before, _MOMENT)


def _moved(at: datetime, by: timedelta) -> datetime:
    try:
        return at + by
    except OverflowError:  # the first or the last instant that there is
        return at


def listing(request: Request, key: Key, page: Asked, items: Sequence[Any], last: UUID | None) -> Response:
    token = None if last is None else pages.seal(request, key, page.list_name, str(last))
    return as_json({"items": items, "next_page_token": token})


def expanded(request: Request) -> set[str]:
    """What is to be filled in: `expand=a&expand=b`, or `expand=a,b`."""
    return {one for value in request.query_params.getlist("expand") for one in value.split(",")}
