"""Checkpoints for the processors of a worker: each write is a small transaction of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from gristmill.db import Database, unavailable
from gristmill.domain.checkpoints import Checkpoint, CheckpointsAway
from gristmill.store import checkpoints


class StoredCheckpoints:
    """As `processors.base.Checkpoints` has them.

    A write does not wait for the disk: should the database server crash right after it, the item goes on from the
    checkpoint before, as it does when its worker dies a moment earlier.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, batch_id: UUID, ordinal: int) -> Checkpoint | None:
        with _away():
            async with self._database.connection() as connection:
                return await checkpoints.load(connection, batch_id, ordinal)

    async def save(self, lease_id: int, batch_id: UUID, ordinal: int, checkpoint: Checkpoint) -> bool:
        with _away():
            async with self._database.transaction(durable=False) as tx:
                return await checkpoints.save(tx, lease_id, batch_id, ordinal, checkpoint)

    async def advance(self, lease_id: int, batch_id: UUID, ordinal: int, done: int) -> bool:
        with _away():
            async with self._database.transaction(durable=False) as tx:
                return await checkpoints.advance(tx, lease_id, batch_id, ordinal, done)


@contextmanager
def _away() -> Iterator[None]:
    """Postgres being away is nothing that is wrong with the item."""
    try:
        yield
    except Exception as error:
        if unavailable(error):
            raise CheckpointsAway from error
        raise
