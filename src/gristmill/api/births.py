"""A batch whose first items are leased by the transaction that makes it, to the worker of this process
(docs/decisions/0017-born-leased.md). What the API knows of that worker is one function, as it is with the bell."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from gristmill.db import Transaction
from gristmill.store.new_batches import NewBatch, NewItem


class Birth(Protocol):
    async def lease(self, tx: Transaction) -> None:
        """Lease the first items if nothing is in the way. The last statement of the transaction that makes the batch."""

    def start(self) -> None:
        """The transaction has committed: start what was leased."""

    @property
    def some_wait(self) -> bool:
        """Whether anything is left for a claim."""


# From the last thing before the transaction that makes the batch to the first after it. No items: nothing can be leased.
Bear = Callable[[NewBatch, Sequence[NewItem]], AbstractContextManager[Birth]]


class _Unleased:
    some_wait = True

    async def lease(self, tx: Transaction) -> None:
        pass

    def start(self) -> None:
        pass


@contextmanager
def unleased(new: NewBatch, items: Sequence[NewItem]) -> Iterator[Birth]:
    """Where there is no worker in the process."""
    yield _Unleased()
