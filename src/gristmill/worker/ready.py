"""What has been claimed and waits for a slot."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import repeat
from uuid import UUID

from gristmill.store.claims import ClaimedItem
from gristmill.worker.work import HeldLease, Job, Work


class Ready:
    """All of one batch in its order, and several batches in turns, so that what was claimed ahead of a
    large one does not keep a few items of another waiting. `turn` is taken from by whoever has a slot."""

    def __init__(self) -> None:
        self.turn: deque[Work] = deque()  # of one batch, the one whose turn it is
        self._others: dict[UUID, deque[Work]] = {}

    def __len__(self) -> int:
        return len(self.turn) + sum(map(len, self._others.values()))

    def __bool__(self) -> bool:
        return bool(self.turn or self._others)

    def put(self, job: Job, held: HeldLease, items: Iterable[ClaimedItem]) -> None:
        batch_id = held.lease.batch_id
        if not self or (self.turn and self.turn[0][1].lease.batch_id == batch_id):
            waiting = self.turn
        else:
            waiting = self._others.setdefault(batch_id, deque())
        waiting.extend(zip(repeat(job), repeat(held), items))

    def next_turn(self) -> bool:
        """Of the batch that has waited longest for it; whether there is anything."""
        if self._others:
            over, self.turn = self.turn, self._others.pop(next(iter(self._others)))
            if over:
                self._others[over[0][1].lease.batch_id] = over
        return bool(self.turn)

    def jobs(self) -> Iterator[Job]:
        """One for each item."""
        return (job for works in (self.turn, *self._others.values()) for job, _, _ in works)

    def taken(self) -> Iterator[Work]:
        """All there is, which is not there any more."""
        while self.turn or self.next_turn():
            yield self.turn.popleft()
