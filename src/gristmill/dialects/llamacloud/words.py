"""What the two systems call the same things: ids, kinds of work, states, instants."""

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from gristmill.api.query import uuid_of
from gristmill.domain.errors import NotFound
from gristmill.domain.states import BatchStatus, ItemStatus
from gristmill.processors.extract import Extract
from gristmill.processors.parse import Parse
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.results import Result

NAME = "llamacloud"
JOBS = "llamacloud_job"  # a parse or extract job of its own: a batch of one item that is not listed among batches

BATCH, DIRECTORY, DIRECTORY_FILE = "bat-", "dir-", "dfl-"
PROCESSORS = {"parse_v2": Parse.name, "extract_v2": Extract.name}
TYPES = {name: kind for kind, name in PROCESSORS.items()}
JOB = {Parse.name: "pjb-", Extract.name: "ejb-"}
_ORDINAL = re.compile(r"0|[1-9][0-9]{0,6}")


class Lenient(BaseModel):
    """A body: what is not known is passed over, as that system's own server does; nothing is coerced."""

    model_config = ConfigDict(extra="ignore", strict=True)


# --- ids ------------------------------------------------------------------------------------------------------


def outward(prefix: str, row_id: UUID | str) -> str:
    return f"{prefix}{row_id}"


def inward(prefix: str, text: str) -> UUID:
    """The id behind `outward`. Raises NotFound for what cannot be one."""
    found = uuid_of(text.removeprefix(prefix))
    if found is None or not text.startswith(prefix):
        raise NotFound("no such id")
    return found


class JobId(NamedTuple):
    """A job is an item: its id is that of its batch and its place in it."""

    batch_id: UUID
    ordinal: int

    @classmethod
    def read(cls, processor: str, text: str) -> "JobId":
        """Raises NotFound for what cannot be the id of such a job."""
        batch, _, ordinal = text.rpartition("-")
        if not _ORDINAL.fullmatch(ordinal):
            raise NotFound("no such job")
        return cls(inward(JOB[processor], batch), int(ordinal))


def job_id(processor: str, batch_id: UUID, ordinal: int) -> str:
    return f"{JOB[processor]}{batch_id}-{ordinal}"


def project_of(key: Key) -> str:
    """A tenant is the one project that its keys know."""
    return f"prj-{key.tenant_id}"


# --- states ---------------------------------------------------------------------------------------------------

_ENDED = {
    BatchStatus.COMPLETED: "COMPLETED",
    BatchStatus.FAILED: "FAILED",
    BatchStatus.CANCELLED: "CANCELLED",
}
ACTIVE = (BatchStatus.IN_PROGRESS, BatchStatus.PAUSED, BatchStatus.CANCELLING)
STATUSES = {word: (status,) for status, word in _ENDED.items()} | dict.fromkeys(
    ("PENDING", "THROTTLED", "RUNNING"), ACTIVE
)
_LIMITS = (
    "throttled until",
    "upstream down until",
    "retry at",
    "concurrency limit",
    "rate limit",
)  # of Batch.waiting_reason


def batch_status(batch: Batch) -> str:
    """One of that system's six, whatever ours is: its clients know no other. THROTTLED: something waits, nothing runs, and
    only a limit or a pause before the next attempt is in the way."""
    if (ended := _ENDED.get(batch.status)) is not None:
        return ended
    if batch.processing:
        return "RUNNING"
    if (batch.waiting_reason or "").startswith(_LIMITS):
        return "THROTTLED"
    return "PENDING" if batch.fresh or batch.ingesting else "RUNNING"


def not_cancelled(batch: Batch) -> str:
    return f"cannot cancel a batch with status '{batch_status(batch)}'"


_ITEM = {
    ItemStatus.PENDING: "PENDING",
    ItemStatus.PROCESSING: "RUNNING",
    ItemStatus.SUCCESS: "COMPLETED",
    ItemStatus.FAILED: "FAILED",
}
_CANCELLED = 499


def job_status(result: Result) -> str:
    return "CANCELLED" if result.code == _CANCELLED else _ITEM[result.status]


def only_status(batch: Batch) -> str:
    """Of the job whose batch has no other."""
    if batch.success:
        return "COMPLETED"
    if batch.failed:
        return "CANCELLED" if batch.cancelled else "FAILED"
    return "RUNNING" if batch.processing else "PENDING"


def message(error: str | None) -> str | None:
    """Of an item's error, which is JSON."""
    return None if error is None else str(orjson.loads(error)["message"])


# --- the rest -------------------------------------------------------------------------------------------------


def instant(at: datetime | None) -> str | None:
    """In milliseconds, as that system has them."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def updated_at(batch: Batch) -> str | None:
    return instant(batch.ended_at or batch.created_at)


def facts_of(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if text is None else orjson.loads(text)
    return found


def facts(**given: Any) -> str:
    """What is kept of a row that this dialect made; None is left out."""
    return orjson.dumps({name: value for name, value in given.items() if value is not None}).decode()
