"""Those who follow a batch, by whatever protocol: each is counted while it follows, and leaves one line of log and one count."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from uuid import UUID

from gristmill import db, metrics

logger = logging.getLogger(__name__)

Reason = Literal["left", "ended", "sent_away", "deleted", "refused", "database_unavailable", "error"]


class Follower:
    """`reason`: why it follows no longer. Until something else is known, it has left by itself."""

    def __init__(self, kind: Literal["sse", "websocket"], batch_id: UUID | None) -> None:
        self.kind = kind
        self.batch_id = batch_id
        self.reason: Reason = "left"
        self._began = time.monotonic()

    def lost(self, error: Exception) -> bool:
        """Whether it is Postgres that went away: then the follower is to be told to come again, and nothing is raised."""
        self.reason = "database_unavailable" if db.unavailable(error) else "error"
        return self.reason == "database_unavailable"

    def note(self) -> None:
        metrics.follower_gone(self.kind, self.reason)
        seconds = round(time.monotonic() - self._began, 1)
        fields = {"kind": self.kind, "batch_id": self.batch_id and str(self.batch_id), "reason": self.reason}
        level = logging.WARNING if self.reason == "database_unavailable" else logging.INFO
        logger.log(level, "follower gone", extra=fields | {"seconds": seconds})


@contextmanager
def following(kind: Literal["sse", "websocket"], batch_id: UUID | None = None) -> Iterator[Follower]:
    one = Follower(kind, batch_id)
    metrics.follower_came(kind)
    try:
        yield one
    finally:
        one.note()
