"""Items that are suspected of killing workers run alone, so that no other is lost with them.

An item that was there when workers died again and again may be to blame, or was only near one that is. If it ran beside
others and the worker died again, nobody could tell, and all of them would fail. So now and then a worker claims nothing
until what it has in hand has ended and is recorded, and then takes one suspect and nothing else. As long as that took, it
then works for the others.
"""

import asyncio
from collections.abc import Callable, Collection
from enum import Enum, auto

from gristmill.db import Database
from gristmill.store import claims

LOOK_SECONDS = 1.0  # between looks for suspects while there is other work


class Turn(Enum):
    OTHERS = auto()  # anything but a suspect may be claimed
    NOBODY = auto()  # nothing may be
    SUSPECT = auto()  # one suspect may be


class Isolation:
    def __init__(self, database: Database, processors: Collection[str], busy: Callable[[], bool]) -> None:
        self._database = database
        self._processors = processors
        self._busy = busy  # is anything in hand that will end, or ended and not yet recorded?
        self._clock = asyncio.get_running_loop().time
        self._began: float | None = None  # since then nothing else is claimed
        self._claimed = False  # the suspect of this turn
        self._next_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no suspect is known to wait, and none runs."""
        return self._began is None

    @property
    def is_time(self) -> bool:
        """Whether somebody should look again. After a claim rather than before: nothing shall wait for a look that finds none."""
        return self._clock() >= self._next_at

    async def turn(self, worker_id: int) -> Turn:
        if self._began is not None and not self._claimed and self.is_time:
            await self.due(worker_id)
        if self._began is None:
            return Turn.OTHERS
        if self._busy():
            return Turn.NOBODY
        if not self._claimed:
            return Turn.SUSPECT
        self._end()
        return Turn.OTHERS

    async def due(self, worker_id: int) -> bool:
        """Whether a suspect waits; from then on nothing else is to be claimed, until another worker has taken it."""
        now = self._clock()
        self._next_at = now + LOOK_SECONDS
        async with self._database.connection() as connection:
            waits = await claims.suspects_wait(connection, worker_id, self._processors)
        if not waits:
            self._began = None
        elif self._began is None:
            self._began = now
        return waits

    def took(self, suspects: int) -> None:
        """What the claim of a suspect brought: none, if another worker was faster or its batch may start nothing now."""
        self._claimed = suspects > 0
        if not self._claimed:
            self._end()

    def _end(self) -> None:
        now = self._clock()
        self._next_at = max(self._next_at, 2 * now - (self._began or now))
        self._began, self._claimed = None, False
