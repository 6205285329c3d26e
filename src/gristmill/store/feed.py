"""In what order the items of a batch ended: exact, however many workers record at once.

A flush locks the row of the counters last and keeps it until it commits, so the numbers it brings them to are in the order of
the commits: `success + failed` is a sequence without holes. Beside it, `result_log` keeps which items brought it there. A
place in that sequence, with its run, is what a reader has got to; who resumes there misses nothing and gets nothing twice.
See docs/decisions/0014-event-feed.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from gristmill.db import Transaction
from gristmill.store import results
from gristmill.store.batches import Batch
from gristmill.store.results import Result


class Position(NamedTuple):
    """`place`: so many items had ended in this run, those that ended in earlier ones and stayed among them."""

    run: int
    place: int


BEGINNING = Position(1, 0)


@dataclass(frozen=True, slots=True)
class Window:
    """Items in the order they ended, each with its position, and where to read on."""

    ended: Sequence[tuple[Position, Result]]
    upto: Position


def end_of(batch: Batch) -> Position:
    """Where the feed of the batch, as it was read, ends."""
    return Position(batch.run, batch.success + batch.failed)


# No more rows than it takes: a row may have thousands of items, or one.
_LOG = """
SELECT run, upto, ordinals, at FROM (
    SELECT *, sum(cardinality(ordinals)) OVER (ORDER BY run, upto) - cardinality(ordinals) AS before FROM (
        SELECT run, upto, ordinals, at FROM result_log
        WHERE batch_id = $1 AND (run, upto) > ($2, $3) AND (run, upto) <= ($4, $5) ORDER BY run, upto LIMIT $6
    ) next
) numbered WHERE before < $6 ORDER BY run, upto
"""


async def window(
    connection: Transaction, batch: Batch, after: Position, limit: int, *, with_checkpoints: bool = False
) -> Window | None:
    """Up to `limit` items that ended after that position and are counted in `batch`; None: there are none.

    An item that a retry took the result of is passed over: it ends again, in a later run.
    """
    rows = await connection.fetch(_LOG, batch.id, *after, *end_of(batch), limit)
    places: list[tuple[Position, int, datetime]] = []
    for run, upto, ordinals, at in rows:
        first = upto - len(ordinals) + 1
        places += [
            (Position(run, place), ordinal, at)
            for place, ordinal in enumerate(ordinals, first)
            if (run, place) > after
        ]
        if len(places) >= limit:
            break
    places = places[:limit]
    if not places:
        return None
    rows_found = await results.at(connection, batch, [ordinal for _, ordinal, _ in places])
    if with_checkpoints:
        rows_found = await results.with_checkpoints(connection, batch, rows_found)
    found = {one.ordinal: one for one in rows_found}
    ended = [
        (position, found[ordinal])
        for position, ordinal, at in places
        if ordinal in found and found[ordinal].processed_at == at
    ]
    return Window(ended, places[-1][0])
