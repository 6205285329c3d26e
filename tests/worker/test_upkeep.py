import os
import signal

import pytest

from factories import claim, make_batch, make_worker, sql
from gristmill.db import LOST, Database
from gristmill.embedded.postgres import EmbeddedPostgres
from gristmill.store import schema
from gristmill.worker.upkeep import Upkeep


@pytest.mark.slow
async def test_after_an_outage_nobody_is_taken_for_dead_who_could_not_beat_in_it(
    durable_postgres: EmbeddedPostgres,
) -> None:
    database = await Database(durable_postgres.url, timeout_seconds=2.0).open()
    await schema.migrate(database)
    await make_batch(database, 2)
    await claim(database, await make_worker(database), 2)
    await sql(database, "UPDATE worker SET beat_at = now() - interval '1 minute'")
    witness, newcomer = [Upkeep(database, lease_seconds=30.0) for _ in range(2)]

    os.kill(durable_postgres.process_id, signal.SIGKILL)
    with pytest.raises(LOST):
        await witness.reap()
    durable_postgres.revive()

    assert await witness.reap() == 0
    assert await sql(database, "SELECT dead FROM worker") == [False]
    assert await newcomer.reap() == 1
    await database.close()
