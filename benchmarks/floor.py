"""The floor under all that keeps items and results: a bare COPY in, a SELECT and a COPY out, one connection, no queue."""

import asyncio
import json

import asyncpg

from benchmarks import work
from benchmarks.drain import Drained
from benchmarks.meter import Meter
from benchmarks.postgres import Postgres
from gristmill.db import connect_options

CHUNK = 1000
# The columns that an item and a result need at least, as text, with the keys that keep them apart.
_TABLES = """
CREATE TABLE floor_item (
    batch int, ordinal int, custom_id text, input text, PRIMARY KEY (batch, ordinal), UNIQUE (batch, custom_id)
);
CREATE TABLE floor_result (batch int, ordinal int, status smallint, output text, PRIMARY KEY (batch, ordinal));
"""


def drain(postgres: Postgres, items: int) -> Drained:
    """In chunks of 1,000, each a transaction that is on the disk before the next."""
    return asyncio.run(_drain(postgres, postgres.fresh("bench_floor"), items))


async def _drain(postgres: Postgres, url: str, items: int) -> Drained:
    connection = await asyncpg.connect(**connect_options(url))
    watched = {"store": postgres.cpu}
    try:
        await connection.execute(_TABLES)
        rows = [(0, n, work.custom_id_of(n), json.dumps(work.input_of(n))) for n in range(items)]
        with Meter(watched) as ingest:
            for first in range(0, items, CHUNK):
                await connection.copy_records_to_table("floor_item", records=rows[first : first + CHUNK])
        del rows
        with Meter(watched) as out:
            await _out(connection, items)
    finally:
        await connection.close()
    return Drained(
        name="floor: COPY in; SELECT, COPY out",
        items=items,
        ingest_seconds=ingest.seconds,
        drain_seconds=out.seconds,
        ingest_own=ingest.cpu["client"],
        ingest_store=ingest.cpu["store"],
        drain_own=out.cpu["client"],
        drain_store=out.cpu["store"],
        other=max(ingest.other, out.other),
    )


async def _out(connection: "asyncpg.Connection[asyncpg.Record]", items: int) -> None:
    """Each input is answered with itself."""
    read = await connection.prepare(
        "SELECT ordinal, input FROM floor_item WHERE batch = 0 AND ordinal >= $1 AND ordinal < $2 ORDER BY ordinal"
    )
    for first in range(0, items, CHUNK):
        found = await read.fetch(first, first + CHUNK)
        results = [(0, ordinal, 1, given) for ordinal, given in found]
        await connection.copy_records_to_table("floor_result", records=results)
