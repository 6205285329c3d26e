"""Which indexes the hot statements go by in a batch of a million items, half of them ended, whatever the statistics say.

`--long` makes it a million; else it is a tenth of it, in which a plan that reads the whole batch shows, too.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from databases import Server
from factories import get, make_batch, make_worker, sql, success
from gristmill.db import Database
from gristmill.domain.states import ItemStatus
from gristmill.store import claims, feed, recording, results
from gristmill.store.copying import FEW
from gristmill.store.feed import Position
from gristmill.store.recording import Flush
from gristmill.tables import metadata
from plans import Watched, watched

OTHERS, OTHERS_ITEMS = 20, 200  # batches beside it
MOST_BYTES = 16 * 1024 * 1024  # of a page
EACH = 20  # items in a row of the log
FAILED_EACH = 100
PER_ITEM = 30  # rows that all nodes of a plan handle, for each item that is claimed, recorded or shown

# An item that ended an hour ago, as a worker would have recorded it.
# What matters here of a text is its length.
_SEED = """
WITH items AS (
    INSERT INTO item (batch_id, ordinal, custom_id, input)
    SELECT $1, n, 'item-' || n, '{"text":"some words"}' FROM generate_series(0, $2::int - 1) n
), results AS (
    INSERT INTO result (batch_id, ordinal, status, code, attempt, output)
    SELECT $1, n, 1 + (n % $3::int = 0)::int, CASE WHEN n % $3::int = 0 THEN 500 END, 1, rpad('{"text":"', 250, 'x')
    FROM generate_series(0, $2::int / 2 - 1) n
), log AS (
    INSERT INTO result_log (batch_id, run, upto, ordinals)
    SELECT $1, 1, n, ARRAY(SELECT generate_series(n - $4::int, n - 1))
    FROM generate_series($4::int, $2::int / 2, $4::int) n
), counted AS (
    UPDATE batch_count SET total = $2::int, failed = $2::int / 2 / $3::int, success = $2::int / 2 - $2::int / 2 / $3::int
    WHERE batch_id = $1
), waiting AS (UPDATE span SET first = $2::int / 2, last = $2::int - 1 WHERE batch_id = $1)
UPDATE batch SET total = $2::int WHERE id = $1
"""


# Of partitions, with those of the whole table.
_INDEXES = """
SELECT child.relname, parent.relname FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent WHERE child.relkind = 'i'
"""


@dataclass
class Million:
    database: Database
    batch_id: UUID
    items: int
    names: dict[str, str]  # of indexes of partitions: those of the whole table

    @asynccontextmanager
    async def watched(self, mode: str) -> AsyncIterator[Watched]:
        async with watched(self.database, mode, analyze=False) as seen:
            yield seen

    async def went_by(self, seen: Watched, bound: float) -> set[str]:
        """The indexes by which rows of big tables were found, with no more than so many rows handled."""
        nodes = await seen.nodes(least=1)
        beyond = [
            (node["Node Type"], node.get("Relation Name"), _rows(node))
            for node in nodes
            if _rows(node) > bound
        ]
        assert beyond == []
        return {self.names[node["Index Name"]] for node in nodes if node.get("Index Name") in self.names}


def _rows(node: dict[str, Any]) -> float:
    removed: float = sum(value for name, value in node.items() if name.startswith("Rows Removed"))
    return (node["Actual Rows"] + removed) * node["Actual Loops"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["no_statistics", "statistics_from_before_it", "statistics"])
async def million(
    request: pytest.FixtureRequest, server: Server, pytestconfig: pytest.Config
) -> AsyncIterator[Million]:
    """A batch beside small ones, whose ids Postgres has not heard of, or that it knows nothing of at all."""
    name = f"gristmill_test_{uuid4().hex}"
    database = await Database(
        await server.create(name, template=server.template), timeout_seconds=300.0
    ).open()
    for _ in range(OTHERS):
        await _seed(database, OTHERS_ITEMS)
    if request.param == "statistics_from_before_it":
        await sql(database, "ANALYZE")
    items = 1_000_000 if pytestconfig.getoption("long") else 100_000
    batch_id = await _seed(database, items)
    if request.param == "statistics":
        await sql(database, "ANALYZE")
    await sql(
        database, "DELETE FROM batch_schedule WHERE batch_id <> $1", batch_id
    )  # the others are not claimed
    names = {str(child): str(parent) for child, parent in await sql(database, _INDEXES)}
    yield Million(database, batch_id, items, names)
    await database.close()
    await server.drop(name)


async def _seed(database: Database, items: int) -> UUID:
    batch_id = await make_batch(database, 1)
    await sql(database, "DELETE FROM item WHERE batch_id = $1", batch_id)
    await sql(database, _SEED, batch_id, items, FAILED_EACH, EACH)
    return batch_id


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def mode(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@asynccontextmanager
async def undone(seen: Watched) -> AsyncIterator[None]:
    """A transaction that is rolled back, so that the next test finds what this one has found."""
    transaction = seen.connection.transaction()
    await transaction.start()
    yield
    await transaction.rollback()


async def test_a_claim_finds_its_items_by_their_key(million: Million, mode: str) -> None:
    worker = await make_worker(million.database)
    async with million.watched(mode) as seen:
        async with undone(seen):
            claimed = await claims.claim(seen.connection, worker, {"noop": 100})
        assert claimed.taken == 100
        assert await million.went_by(seen, 100 * PER_ITEM) == {"item_pkey"}


async def test_a_claim_of_several_ranges_finds_their_items_by_their_key(million: Million, mode: str) -> None:
    worker = await make_worker(million.database)
    async with million.watched(mode) as seen:
        async with undone(seen):
            await seen.connection.execute("DELETE FROM span WHERE batch_id = $1", million.batch_id)
            firsts = [million.items * n // 5 for n in range(5)]
            add = "INSERT INTO span (batch_id, first, last) SELECT $1, f, f + 19 FROM unnest($2::int[]) AS given (f)"
            await seen.connection.execute(add, million.batch_id, firsts)
            await million.went_by(seen, 100 * PER_ITEM)
            claimed = await claims.claim(seen.connection, worker, {"noop": 100})
        assert (claimed.taken, len(claimed.leases)) == (100, 5)
        assert await million.went_by(seen, 100 * PER_ITEM) == {"item_pkey"}


@pytest.mark.parametrize("many", [2 * FEW, 100])
async def test_a_flush_and_the_end_check_read_no_big_table(million: Million, mode: str, many: int) -> None:
    """By COPY, and in one statement."""
    worker = await make_worker(million.database)
    async with million.watched(mode) as seen:
        async with undone(seen):
            claimed = await claims.claim(seen.connection, worker, {"noop": many})
            await million.went_by(seen, many * PER_ITEM)
            [lease] = claimed.leases
            ended = [success(lease, item.ordinal) for item in lease.items]
            await recording.record(seen.connection, worker, Flush({lease.id: 0}, ended))
        assert len(ended) == many
        assert await million.went_by(seen, many * PER_ITEM) == set()


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
async def test_a_page_by_offset_is_found_by_keys(million: Million, mode: str, share: float) -> None:
    batch = await get(million.database, million.batch_id)
    async with million.watched(mode) as seen:
        first = int(million.items * share)
        found, _ = await results.rows(seen.connection, batch, limit=100, offset=first, most_bytes=MOST_BYTES)
        assert [one["ordinal"] for one in found] == list(range(first, first + 100))
        assert await million.went_by(seen, 200) == {"item_pkey", "result_pkey"}


@pytest.mark.parametrize("share", [0.0, 0.4])
async def test_a_page_of_the_failed_by_cursor_reads_the_failed_and_no_others(
    million: Million, mode: str, share: float
) -> None:
    batch = await get(million.database, million.batch_id)
    async with million.watched(mode) as seen:
        found, _ = await results.rows(
            seen.connection,
            batch,
            most_bytes=MOST_BYTES,
            limit=20,
            after=int(million.items * share),
            status=ItemStatus.FAILED,
        )
        assert len(found) == 20
        assert await million.went_by(seen, 20 * PER_ITEM) >= {"result_failed_idx", "item_pkey"}


@pytest.mark.parametrize("share", [0.0, 0.4])
async def test_a_page_of_the_successful_by_cursor_reads_on_from_there(
    million: Million, mode: str, share: float
) -> None:
    batch = await get(million.database, million.batch_id)
    async with million.watched(mode) as seen:
        found, _ = await results.rows(
            seen.connection,
            batch,
            most_bytes=MOST_BYTES,
            limit=100,
            after=int(million.items * share),
            status=ItemStatus.SUCCESS,
        )
        assert len(found) == 100
        assert await million.went_by(seen, 100 * PER_ITEM) == {"item_pkey", "result_pkey"}


async def test_an_item_is_found_by_its_custom_id(million: Million, mode: str) -> None:
    batch = await get(million.database, million.batch_id)
    wanted = random.Random(6).randrange(million.items // 2)
    async with million.watched(mode) as seen:
        one, _, _ = await results.one(seen.connection, batch, f"item-{wanted}")
        assert one.ordinal == wanted
        assert "item_batch_id_custom_id_idx" in await million.went_by(seen, 20)


async def test_the_feed_goes_on_by_the_key_of_its_log(million: Million, mode: str) -> None:
    batch = await get(million.database, million.batch_id)
    async with million.watched(mode) as seen:
        window = await feed.window(seen.connection, batch, Position(1, int(million.items * 0.45)), 100)
        assert window is not None
        assert len(window.ended) == 100
        assert await million.went_by(seen, 100 * PER_ITEM) == {"result_log_pkey", "item_pkey", "result_pkey"}


async def test_tables_that_churn_are_vacuumed_early_and_with_room_in_their_pages(database: Database) -> None:
    """By numbers of rows, not by shares: a table of ten rows gets ten thousand dead ones within seconds."""
    hot = {table.name for table in metadata.sorted_tables if table.dialect_options["postgresql"]["with"]}
    rows = await sql(
        database, "SELECT relname, reloptions FROM pg_class WHERE relname = ANY ($1)", sorted(hot)
    )
    wanted = {
        "fillfactor=50",
        "autovacuum_vacuum_scale_factor=0",
        "autovacuum_vacuum_threshold=100",
        "autovacuum_vacuum_cost_delay=0",
    }
    assert {name: wanted - set(options or ()) for name, options in rows} == {name: set() for name in hot}
    churning = {"span", "lease", "batch_count", "batch_schedule", "tenant_schedule", "history_lock", "worker"}
    assert hot >= churning
