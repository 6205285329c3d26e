"""The words of Nexent: a file goes through two stages, `process` and `forward`, each with a status of Celery's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, get_args

import orjson

from gristmill.documents.chunks import Strategy
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.errors import Invalid, Problem
from gristmill.processors.pipeline import Pipeline
from gristmill.store.tasks import Task

NAME = "nexent"
SOURCE_TYPES = ("local", "minio", "url")
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
PROCESS_SUFFIX = ".process"  # of the row of a file's first stage; the bare id is its chain's, as in Celery


class Celery(StrEnum):
    PENDING = "PENDING"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


# By the stage of the pipeline: the status of `process`, and that of `forward` once there is one.
ROWS: dict[str, tuple[Celery, Celery | None]] = {
    "WAIT_FOR_PROCESSING": (Celery.PENDING, None),
    "PROCESSING": (Celery.STARTED, None),
    "PROCESS_FAILED": (Celery.FAILURE, None),
    "WAIT_FOR_FORWARDING": (Celery.SUCCESS, Celery.PENDING),
    "FORWARDING": (Celery.SUCCESS, Celery.STARTED),
    "FORWARD_FAILED": (Celery.SUCCESS, Celery.FAILURE),
    "COMPLETED": (Celery.SUCCESS, Celery.SUCCESS),
}
_OF_PROCESS = {process: stage for stage, (process, _) in reversed(ROWS.items())}
_OF_FORWARD = {forward: stage for stage, (_, forward) in ROWS.items() if forward is not None}


def custom_state(process: str, forward: str) -> str:
    """What `/tasks/convert_state` tells of two statuses, "" for one that is not there; UNKNOWN for other words."""
    if process == Celery.FAILURE:
        return "PROCESS_FAILED"
    if forward == Celery.FAILURE:
        return "FORWARD_FAILED"
    if not process and not forward:
        return "WAIT_FOR_PROCESSING"
    if not {process, forward} <= {*Celery, ""}:
        return "UNKNOWN"
    # Only both done is done, but where `forward` has begun at all, it tells.
    return _OF_FORWARD[Celery(forward)] if forward else _OF_PROCESS[Celery(process)]


@dataclass(frozen=True, slots=True)
class Chain:
    """A file's task with what its rows show: `given` is what its source said, as far as it could be understood."""

    task: Task
    given: Mapping[str, Any]
    saved: Checkpoint | None

    @classmethod
    def of(cls, task: Task, text: str, saved: Checkpoint | None) -> "Chain":
        found = orjson.loads(text)
        return cls(task, found if isinstance(found, dict) else {}, saved)

    @property
    def id(self) -> str:
        return f"{self.task.batch_id}-{self.task.ordinal}"

    @property
    def stage(self) -> str:
        return Pipeline().stage(self.task.status, self.saved.stage if self.saved else None)

    @property
    def rows(self) -> list[dict[str, Any]]:
        process, forward = ROWS[self.stage]
        rows = [self._row("process", process)]
        return rows if forward is None else [*rows, self._row("forward", forward)]

    @property
    def whole(self) -> dict[str, Any]:
        """The chain as one row: what `forward` is at, or how `process` failed before it."""
        process, forward = ROWS[self.stage]
        early = Celery.FAILURE if process is Celery.FAILURE else Celery.PENDING
        return self._row("forward", early if forward is None else forward)

    def _row(self, name: str, status: Celery) -> dict[str, Any]:
        task, metadata = self.task, self.given.get("metadata") or {}
        error = orjson.loads(task.error) if task.error and status is Celery.FAILURE else None
        row = {
            "id": self.id + (PROCESS_SUFFIX if name == "process" else ""),
            "task_name": name,
            "index_name": task.collection or "",
            "path_or_url": self.given.get("source") or "",
            "original_filename": metadata.get("original_filename") or "",
            "source_type": self.given.get("source_type") or "",
            "status": status,
            "created_at": task.created_at.timestamp(),
            "updated_at": _latest(task).timestamp(),
            "error": error and error["message"],
        }
        if error is not None:
            row |= {"error_code": error["type"], "suggestion": error["suggestion"]}
        if self.saved is not None:
            row |= {"processed_chunks": self.saved.done, "total_chunks": self.saved.total}
        return row


def _latest(task: Task) -> datetime:
    return task.processed_at or task.started_at or task.created_at


def strategy(given: str | None) -> Strategy:
    """Raises Invalid."""
    found = next((one for one in STRATEGIES if one == (given or "basic")), None)
    if found is None:
        raise invalid("chunking_strategy", f"must be one of: {', '.join(STRATEGIES)}")
    return found


def invalid(name: str, detail: str, code: str = "value_error") -> Invalid:
    """Of a field of a form."""
    return Invalid([Problem(f"/{name}", code, f"{name}: {detail}")])
