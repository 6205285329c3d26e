"""Where the queues of tenants begin, so that a claim does not read what has gone from them (`schedules.Front`)."""

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from gristmill.db import Database
from gristmill.store import schedules
from gristmill.store.schedules import Front

# A front is used once this has passed, as low as it has been seen then and now: what was being committed at the first look is
# there at the second. What a transaction that takes longer brings may be in front of both, and is found when all is read again.
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
        """Once in LOOK_SECONDS. Who claims nothing keeps no front: nothing is hidden from it, whatever has happened."""
        if not self._moved:
            self.known = self._seen = ()
            return 0
        self._moved = False
        self._looks += 1
        read_all = self._looks % READ_ALL == 0
        async with self._database.connection() as connection:
            seen = await schedules.fronts(connection, self._tenants, () if read_all else self.known)
        self.known, self._seen = _lower(self._seen, seen), seen
        return 0


def _lower(before: Sequence[Front], now: Sequence[Front]) -> list[Front]:
    """Of the tenants that are in both."""
    then = {front.tenant_id: front for front in before}
    return [
        Front(front.tenant_id, min(front.fresh, other.fresh), min(front.begun, other.begun))
        for front in now
        if (other := then.get(front.tenant_id)) is not None
    ]
