"""The shapes of answers about items: results of one batch, tasks of all. What they are for: `api/answers.py`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from gristmill.domain.states import ItemStatus


class CallAnswer(BaseModel):
    model: str
    call_type: Literal["tool_call", "main_response"]
    total_tokens: int
    prompt_tokens: int
    completion_tokens: int


class UsageAnswer(BaseModel):
    tool_calls: list[CallAnswer]
    total_calls: int
    total_tokens: int
    main_response: CallAnswer | None
    total_prompt_tokens: int
    total_completion_tokens: int


class ItemErrorAnswer(BaseModel):
    type: str
    message: str
    upstream_status: int | None
    retryable: bool
    suggestion: str | None


class ResultAnswer(BaseModel):
    custom_id: str
    status: ItemStatus
    response_content: str | None
    response_usage: UsageAnswer | None
    error_code: Literal[400, 408, 499, 500] | None
    error_message: str | None
    history_id: int | None
    conversation_id: int | None
    processed_at: datetime | None
    output: Any
    error: ItemErrorAnswer | None
    attempt: int | None
    started_at: datetime | None
    ordinal: int


class AttemptAnswer(BaseModel):
    run: int
    attempt: int
    error_code: int
    error: ItemErrorAnswer
    usage: UsageAnswer | None
    started_at: datetime | None
    ended_at: datetime


class ResultDetail(ResultAnswer):
    input: Any
    attempts: list[AttemptAnswer]


class StagedResult(ResultAnswer):
    """Of a processor that works in stages."""

    stage: str
    processed_chunks: int | None
    total_chunks: int | None


class StagedResultDetail(ResultDetail):
    stage: str
    processed_chunks: int | None
    total_chunks: int | None


class TaskAnswer(BaseModel):
    id: str
    batch_id: UUID
    custom_id: str
    type: str
    status: ItemStatus
    file_name: str | None
    collection: str | None
    created_by: str | None
    progress: float
    created_at: datetime
    started_at: datetime | None
    processed_at: datetime | None
    error_code: Literal[400, 408, 499, 500] | None
    error_message: str | None
    # Of processors that work in stages only:
    stage: str | None = None
    processed_chunks: int | None = None
    total_chunks: int | None = None


class TaskDetail(TaskAnswer):
    response_content: str | None
    response_usage: UsageAnswer | None
    output: Any
    error: ItemErrorAnswer | None
    attempt: int | None
    history_id: int | None
    conversation_id: int | None
    input: Any
    attempts: list[AttemptAnswer]


class TaskSummary(BaseModel):
    total: int
    pending: int
    running: int
    success: int
    failed: int


MODELS: tuple[type[BaseModel], ...] = (
    ResultAnswer,
    ResultDetail,
    StagedResult,
    StagedResultDetail,
    TaskAnswer,
    TaskDetail,
    TaskSummary,
)
