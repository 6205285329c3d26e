"""While somebody holds a snapshot, Postgres can remove no row that was deleted since, and these tables are all deletions: what is
still there has to be found by its key, whatever the planner thinks of tables that look empty."""

from typing import Any

import orjson
import pytest

from factories import TENANT, all_of, claim, make_batch, make_worker, record, sql
from gristmill.db import Database
from gristmill.store import claims, recording, schedules

DEAD = 20_000  # rows that have gone, in each table
MOST_PAGES = 100  # of a statement; those of each table lie in 200 or more

_GONE = f"""
INSERT INTO span (batch_id, first, last, attempts, losses, available_at)
SELECT gen_random_uuid(), 0, 0, 0, 0, now() FROM generate_series(1, {DEAD});
INSERT INTO lease (id, batch_id, worker_id, first, last, remaining, attempt, losses, deadline_at)
SELECT n, gen_random_uuid(), $1, 0, 0, 1, 1, 0, now() FROM generate_series(1, {DEAD}) AS n;
INSERT INTO batch_schedule (batch_id, tenant_id, processor, weight, vtime, paused, deadline_at, limited)
SELECT gen_random_uuid(), $2, 'noop', 1, {schedules._FRESH}, false, 'infinity', false FROM generate_series(1, {DEAD});
UPDATE batch_schedule SET vtime = random();
DELETE FROM span; DELETE FROM lease; DELETE FROM batch_schedule;
"""


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_rows_are_found_by_their_keys_among_those_that_have_gone(database: Database, mode: str) -> None:
    worker = await make_worker(database)
    holder = await database.connect()
    try:
        async with holder.transaction(isolation="repeatable_read"):
            await holder.fetchval("SELECT count(*) FROM batch")
            async with database.transaction() as tx:
                gone = _GONE.replace("$1", str(worker)).replace("$2", f"'{TENANT}'")
                for statement in gone.strip().split(";")[:-1]:
                    await tx.execute(statement)
            await sql(database, "ANALYZE span, lease, batch_schedule")  # they look empty
            batch_id = await make_batch(database, 8)
            leases = [lease for _ in range(2) for lease in await claim(database, worker, 2)]
            lease_ids = [one.id for one in leases]
            async with database.connection() as connection:
                [front] = await schedules.fronts(connection, [TENANT])
            free: list[Any] = [worker, ["noop"], [2], [], [], [], False, None, [], []]
            fronts = [[at] for at in front]
            all_read = await _pages(database, mode, claims._CLAIM, *free, [], [], [], None)
            begun = await _pages(database, mode, claims._CLAIM, *free, *fronts, None)
            await make_batch(database, 1)
            pages = {
                "claim of what has begun": begun,
                "claim of what has not": await _pages(database, mode, claims._CLAIM, *free, *fronts, None),
                "suspects": await _pages(database, mode, claims._SUSPECTS, worker, ["noop"]),
                "fronts": await _pages(database, mode, schedules._FRONTS, [TENANT], *fronts),
                "hold": await _pages(database, mode, recording._HOLD, lease_ids, [0, 0], worker),
                "few": await _pages(database, mode, recording._FEW, *recording._few(worker, all_of(leases))),
                "set": await _pages(database, mode, claims._SET_REMAINING, lease_ids, [1, 1]),
                "end": await _pages(database, mode, claims._SET_REMAINING, lease_ids, [0, 0]),
                "remove": await _pages(database, mode, schedules._REMOVE, [batch_id]),
            }
            await record(database, worker, all_of(leases))
    finally:
        await holder.close()
    assert {name: count for name, count in pages.items() if count > MOST_PAGES} == {}
    assert all_read > DEAD  # what the fronts spare
    assert await sql(database, "SELECT count(*) FROM result WHERE batch_id = $1", batch_id) == [4]


async def _pages(database: Database, mode: str, statement: str, *arguments: Any) -> int:
    """Read by it, without those of planning. It is undone."""
    connection = await database.connect()
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {statement}", *arguments)
        await transaction.rollback()
    finally:
        await connection.close()
    plan = orjson.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
