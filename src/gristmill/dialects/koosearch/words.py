"""The words of KooSearch: kinds of tasks, their statuses, and the ids in its paths."""

import re
from collections.abc import Sequence
from enum import StrEnum

from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.states import ItemStatus
from gristmill.processors.qa_generation import QaGeneration
from gristmill.processors.table_deletion import TableDeletion
from gristmill.processors.table_extraction import TableExtraction
from gristmill.store.tasks import Task, TaskFilters

NAME = "koosearch"
PREFIX = "/v1/{project_id}/applications/{application_id}/uni-search/{repo_id}"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LETTER = re.compile(r"[A-Za-z]")


class TaskType(StrEnum):
    QA = "QA"
    DELETE_TABLES = "DELETE_TABLES"
    TABLE_EXTRACTION = "TABLE_EXTRACTION"
    RETRY_FILES = "RETRY_FILES"


class TaskStatus(StrEnum):
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    PENDING = "PENDING"
    RUNNING = "RUNNING"


PROCESSORS = {
    TaskType.QA: QaGeneration.name,
    TaskType.TABLE_EXTRACTION: TableExtraction.name,
    TaskType.DELETE_TABLES: TableDeletion.name,
}
_TYPES = {processor: kind for kind, processor in PROCESSORS.items()}
# A retry is a batch of the same processor again: this tells it from the first try.
RETRYING = {"koosearch_task": TaskType.RETRY_FILES.value}

STATUSES = {
    TaskStatus.SUCCESS: ItemStatus.SUCCESS,
    TaskStatus.ERROR: ItemStatus.FAILED,
    TaskStatus.PENDING: ItemStatus.PENDING,
    TaskStatus.RUNNING: ItemStatus.PROCESSING,
}
STATUS_OF = {ours: theirs for theirs, ours in STATUSES.items()}


def type_of(task: Task) -> TaskType:
    return TaskType.RETRY_FILES if is_retry(task) else _TYPES[task.processor]


def is_retry(task: Task) -> bool:
    return RETRYING.items() <= task.metadata.items()


def filters(
    repo_id: str,
    kind: TaskType | None = None,
    status: TaskStatus | None = None,
    name: str | None = None,
    created_by: str | None = None,
) -> TaskFilters:
    """Tasks of a knowledge base, those of batches that were not made through here included."""
    retries = kind is TaskType.RETRY_FILES
    wanted: Sequence[str] = list(_TYPES) if kind is None or retries else [PROCESSORS[kind]]
    return TaskFilters(
        status=None if status is None else STATUSES[status],
        name=name,
        collection=repo_id,
        created_by=created_by,
        metadata=RETRYING if retries else {},
        without_metadata={} if retries or kind is None else RETRYING,
        processors=wanted,
    )


def check_ids(project_id: str, application_id: str, repo_id: str) -> None:
    """Raises Invalid. Whose tasks are seen is decided by the key alone: projects and applications are names of theirs."""
    found = []
    for name, value, starts in (
        ("project_id", project_id, True),
        ("application_id", application_id, True),
        ("repo_id", repo_id, False),
    ):
        if not _ID.fullmatch(value) or (starts and not _LETTER.match(value)):
            first = ", the first of them a letter" if starts else ""
            detail = f"{name}: must be 1 to 64 letters, digits, hyphens and underscores{first}"
            found.append(Problem(name, "invalid_id", detail))
    if found:
        raise Invalid(found)
