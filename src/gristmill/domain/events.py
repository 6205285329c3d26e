"""The events of a batch and the one body each is announced with. Frozen at the moment the event happens."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

# Events a webhook may subscribe to, without the `batch.` prefix. The ends are always written down, the others only where
# somebody wants them: `created` and `started` once a run at most, `paused` and `resumed` as often as it happens.
ENDS = ("completed", "failed", "cancelled")
ON_REQUEST = ("created", "started", "paused", "resumed")
SUBSCRIBABLE = (*ENDS, *ON_REQUEST)
DEFAULT_SUBSCRIPTION = ("completed", "failed")

# A fixed namespace: event ids derive from (batch, event, run, occurrence), so that a replay carries the same id.
_NAMESPACE = UUID("6d1f4a52-3c77-5c0b-9a0e-5e2d0c6f7b11")


def event_id(batch_id: UUID, event: str, run: int, occurrence: int = 1) -> str:
    """`occurrence`: the n-th of its kind in this run, from 1."""
    name = f"{batch_id}:{event}:{run}" if occurrence == 1 else f"{batch_id}:{event}:{run}:{occurrence}"
    return f"evt_{uuid5(_NAMESPACE, name).hex}"


def instant(at: datetime) -> str:
    """ISO 8601 in UTC with a Z, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def batch_event_body(
    *,
    identifier: str,
    event: str,
    at: datetime,
    batch_id: UUID,
    status: str,
    total: int,
    success: int,
    failed: int,
) -> str:
    """The JSON text that satisfies seed 004's receiver, Standard Webhooks and OpenAI's typed parser at once."""
    body: dict[str, Any] = {
        "id": identifier,
        "object": "event",
        "type": f"batch.{event}",
        "created_at": int(at.timestamp()),
        "event": f"batch.{event}",
        "timestamp": instant(at),
        "data": {
            "id": str(batch_id),
            "status": status,
            "total_requests": total,
            "completed_requests": success,
            "failed_requests": failed,
        },
    }
    return orjson.dumps(body).decode()
