import contextlib
import os
import signal
from typing import Any

import pytest

from factories import claim, make_batch, make_worker, sql
from gristmill.db import LOST, Database
from gristmill.embedded.postgres import EmbeddedPostgres
from gristmill.settings import Settings
from gristmill.store import schema
from gristmill.worker.deliveries import Deliveries
from gristmill.worker.ingests import Ingests
from gristmill.worker.upkeep import Upkeep
from mill import eventually


@pytest.mark.slow
async def test_after_an_outage_nobody_is_taken_for_dead_who_could_not_beat_in_it(
    durable_postgres: EmbeddedPostgres,
) -> None:
    database = await Database(durable_postgres.url, timeout_seconds=10.0).open()
    await schema.migrate(database)
    await make_batch(database, 2)
    await claim(database, await make_worker(database), 2)
    await make_batch(
        database, 1
    )  # waits for the disk, which a claim does not: one that is lost had no worker to lose
    witness, newcomer = [Upkeep(database, lease_seconds=30.0) for _ in range(2)]

    async def is_out() -> bool:
        """A backend serves on for a moment after the server's end, and breaks where it likes."""
        try:
            return await witness.reap() > 0
        except LOST:
            return True

    async def is_back() -> bool:
        """Connections that the pool made while the old backends were leaving break at their first use."""
        with contextlib.suppress(LOST):
            return await sql(
                database, "UPDATE worker SET beat_at = now() - interval '1 minute' RETURNING 1"
            ) == [1]
        return False

    os.kill(durable_postgres.process_id, signal.SIGKILL)
    await eventually(is_out)
    durable_postgres.revive()
    await eventually(is_back)

    assert await witness.reap() == 0
    assert await sql(database, "SELECT dead FROM worker") == [False]
    assert await newcomer.reap() == 1
    await database.close()


async def test_duties_that_find_nothing_begin_no_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches that run, there is nothing to be stopped, read or sent."""
    await make_batch(database, 2)
    nothing: Any = None
    duties = (
        Upkeep(database, lease_seconds=30.0).sweep,
        Ingests(
            database, nothing, {"noop": nothing}, lease_seconds=30.0, allow_private=False, done=nothing
        ).step,
        Deliveries(database, nothing, nothing, Settings()).step,
    )

    def refused(**_: object) -> None:
        raise AssertionError("there is nothing to do")

    monkeypatch.setattr(database, "transaction", refused)
    assert [await duty() for duty in duties] == [0, 0, 0]
