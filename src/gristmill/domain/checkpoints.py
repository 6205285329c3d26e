"""How far an item with several stages has come, kept so that its next attempt goes on from there."""

from dataclasses import dataclass

# Of one item. It is held in memory while the item runs, and the text of a book fits in.
MAX_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`stage` is a word of the processor. `done` of `total` parts of it are behind the item; None: it has no parts.

    `data` is text that only the processor reads; None where only the progress was asked for, or nothing was kept.
    """

    stage: str
    data: str | None = None
    done: int = 0
    total: int | None = None


class CheckpointTooLarge(Exception):
    """`data` has more than MAX_BYTES as UTF-8: the item ends as failed."""


class CheckpointsAway(Exception):
    """Checkpoints can be neither read nor written right now: the item is tried again and uses up no attempt."""


class LeaseLost(Exception):
    """The item is another worker's by now: whatever its processor still does is of no use."""
