"""What a worker must know of a batch to run its items: fixed when the batch was created."""

from dataclasses import dataclass
from uuid import UUID

from gristmill.db import Transaction


@dataclass(frozen=True, slots=True)
class Assignment:
    batch_id: UUID
    tenant_id: UUID
    processor: str
    config: str  # JSON
    config_secrets: bytes | None  # encrypted: what `config` shows as asterisks
    max_attempts: int
    item_timeout_seconds: float
    upstream: str | None = None  # JSON {model, own_key}: what the batch brought for its calls to the model
    upstream_key: bytes | None = None  # encrypted
    circuit: str | None = None  # what its items call (domain/circuits.py)


# In the order of `Assignment`, behind the batch's id.
COLUMNS = (
    "tenant_id",
    "processor",
    "config",
    "config_secrets",
    "max_attempts",
    "item_timeout_seconds",
    "upstream",
    "upstream_key",
    "circuit",
)


async def load(connection: Transaction, batch_id: UUID) -> Assignment | None:
    """None: the batch has been deleted."""
    row = await connection.fetchrow(f"SELECT id, {', '.join(COLUMNS)} FROM batch WHERE id = $1", batch_id)
    return Assignment(*row) if row else None
