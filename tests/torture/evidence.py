"""What the checker is to look at, when a run is over."""

from gristmill.db import Database
from gristmill.store.audit import audit
from torture.checker import Evidence, Struck
from torture.load import Load


async def gathered(load: Load, database_url: str) -> Evidence:
    evidence = await load.evidence()
    evidence.struck = {
        worker.pid: Struck(worker.struck_at, max(len(worker.struck_at), worker.times_declared_dead()))
        for worker in load.fleet.ever
    }
    database = await Database(database_url).open()
    async with database.connection() as connection:
        evidence.violations = await audit(connection)
    await database.close()
    return evidence
