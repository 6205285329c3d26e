"""Where the queues of tenants begin, so that a claim does not read what has gone from them (`schedules.Front`)."""

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from gristmill.db import Database
from gristmill.store import schedules
from gristmill.store.schedules import Front

# A front is used once it is as old as this: whatever was being committed when it was seen is there by then. A transaction that
# takes longer may bring a batch that is in front of it, and is found when all is read again, every so many looks.
LOOK_SECONDS = 2.0
READ_ALL = 5
MOST_TENANTS = 50  # each claim names them to Postgres


class Fronts:
    """Of the tenants whose batches this worker claimed last."""

    def __init__(self, database: Database) -> None:
        self.known: Sequence[Front] = ()
        self._database = database
        self._seen: Sequence[Front] = ()
        self._tenants: OrderedDict[UUID, None] = OrderedDict()
        self._moved = False
        self._looks = 0

    def claimed(self, tenant_id: UUID) -> None:
        self._moved = True
        self._tenants[tenant_id] = None
        self._tenants.move_to_end(tenant_id)
        if len(self._tenants) > MOST_TENANTS:
            self._tenants.popitem(last=False)

    async def step(self) -> int:
        """Once in LOOK_SECONDS."""
        if not self._moved:  # nor have the queues by this worker; what is known stays true
            return 0
        self._moved = False
        self._looks += 1
        read_all = self._looks % READ_ALL == 0
        self.known = self._seen
        async with self._database.connection() as connection:
            self._seen = await schedules.fronts(connection, self._tenants, () if read_all else self.known)
        return 0
