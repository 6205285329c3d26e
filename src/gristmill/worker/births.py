"""Batches that are born leased: the process that makes a batch and has slots for its first items takes them in the transaction
that makes it, and starts them from memory once that has committed. No claim, no fetch; who waits is the disk alone.

The lease is one like any other: the result's primary key decides what counts, and what a crash leaves over the reaper finds.
Whatever a claim would have to respect has to be certainly out of the way; else the batch is born as any
(docs/decisions/0017-born-leased.md).
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gristmill.db import Transaction
from gristmill.store import claims
from gristmill.store.assignments import Assignment
from gristmill.store.claims import ClaimedItem, Lease
from gristmill.store.new_batches import NewBatch, NewItem
from gristmill.worker.items import Items, Offer

MOST_BYTES = 1024 * 1024  # of inputs that stay in memory between their create and their start


@dataclass(frozen=True, slots=True)
class _Leased:
    lease: Lease
    assignment: Assignment
    at: float  # on the monotonic clock: before the lease's statement looked


class Births:
    def __init__(self, items: Items) -> None:
        self._items = items

    @contextmanager
    def of(self, new: NewBatch, items: Sequence[NewItem]) -> "Iterator[Birth]":
        """Hold slots for the batch from here to the end of the block, in which the transaction that makes it begins and ends."""
        birth = Birth(self._items, new, items)
        try:
            yield birth
        finally:
            birth.end()


class Birth:
    def __init__(self, items: Items, new: NewBatch, given: Sequence[NewItem]) -> None:
        self._items = items
        self._new = new
        self._given = given
        most = 0 if new.start_paused else _startable(given)
        self._offer: Offer | None = None
        if most:
            self._offer = items.offer(new.tenant_id, new.processor, _circuit(new), most)
        self._asked = False  # Postgres may have leased something to this worker
        self._leased: _Leased | None = None

    async def lease(self, tx: Transaction) -> None:
        if (offer := self._offer) is None:
            return
        taken = [
            ClaimedItem(ordinal, item.custom_id, None, item.input)
            for ordinal, item in enumerate(self._given[: offer.slots])
        ]
        at, self._asked = time.monotonic(), True
        claim = await claims.born(tx, offer.worker_id, offer.free, self._new.id, taken)
        if claim.leases and claim.assignment:
            self._leased = _Leased(claim.leases[0], claim.assignment, at)
        else:
            self._asked = False

    def start(self) -> None:
        self._asked = False
        offer, leased = self._offer, self._leased
        if offer is None or leased is None:
            return
        self._offer = None
        self._items.take_born(offer, leased.lease, leased.assignment, leased.at)

    @property
    def some_wait(self) -> bool:
        return self._leased is None or len(self._leased.lease.items) < len(self._given)

    def end(self) -> None:
        """Not started: the transaction broke, perhaps in its commit, or there was nothing to start."""
        if self._asked:
            self._items.doubt()
        if self._offer is not None:
            self._items.withdraw(self._offer)


def _startable(given: Sequence[NewItem]) -> int:
    """How many items from the first on may be leased. None of a batch in which some were refused: what waits of it is no longer
    one range."""
    if any(item.error is not None for item in given):
        return 0
    left = MOST_BYTES
    for ordinal, item in enumerate(given):
        left -= sys.getsizeof(item.input)  # a character takes up to four bytes
        if left < 0 or item.history_id is not None:
            return ordinal
    return len(given)


def _circuit(new: NewBatch) -> str | None:
    """As `store/new_batches.bring` has it."""
    return new.circuit if new.circuit is None or new.upstream is None else new.upstream.circuit
