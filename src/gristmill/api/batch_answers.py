"""The shapes of answers about a batch as a whole: the batch, a dry run, deliveries. What they are for: `api/answers.py`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from gristmill.api.answers import ProblemAnswer
from gristmill.domain.limits import LimitAction
from gristmill.domain.states import BatchStatus, DeliveryStatus


class UsageTotals(BaseModel):
    total_calls: int
    total_prompt_tokens: int
    total_completion_tokens: int
    total_tokens: int
    cost_microusd: int


class WebhookAnswer(BaseModel):
    url: str
    events: list[str]


class ListedWebhookAnswer(WebhookAnswer):
    signatures: list[str]


class UpstreamAnswer(BaseModel):
    """What the batch brought for its calls to the model."""

    model: str | None
    own_key: bool


class ThresholdAnswer(BaseModel):
    ratio: float
    minimum: int
    action: LimitAction


class BudgetAnswer(BaseModel):
    max_tokens: int
    action: LimitAction


class BatchAnswer(BaseModel):
    id: UUID
    status: BatchStatus
    agent_id: UUID | None
    total_requests: int
    completed_requests: int
    failed_requests: int
    created_at: datetime
    completed_at: datetime | None
    cancelled_at: datetime | None
    pending_requests: int
    processing_requests: int
    cancelled_requests: int
    expired_requests: int
    progress: float
    throughput: float | None
    eta_seconds: int | None
    waiting_reason: str | None
    usage: UsageTotals
    processor: str
    configuration_id: str | None
    upstream: UpstreamAnswer | None
    name: str | None
    metadata: dict[str, str]
    collection: str | None
    created_by: str | None
    priority: int
    max_attempts: int
    item_timeout_seconds: float
    max_concurrency: int | None
    failure_threshold: ThresholdAnswer | None
    budget: BudgetAnswer | None
    deadline_seconds: int
    deadline_at: datetime
    run: int
    retention_days: int
    expires_at: datetime | None
    webhook: WebhookAnswer | None
    webhooks: list[ListedWebhookAnswer]
    error: dict[str, Any] | None


class Estimate(BaseModel):
    input_tokens: int
    method: Literal["characters / 4"]


class ValidationAnswer(BaseModel):
    valid: bool
    total_requests: int
    invalid_requests: int
    input_bytes: int | None
    estimate: Estimate | None
    errors: list[ProblemAnswer]


class DeliveryAttemptAnswer(BaseModel):
    attempt: int
    sent_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    response: str | None


class DeliveryAnswer(BaseModel):
    id: UUID
    event_id: str
    event: str
    batch_id: UUID
    url: str
    status: DeliveryStatus
    attempts: int
    next_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    log: list[DeliveryAttemptAnswer]


MODELS: tuple[type[BaseModel], ...] = (BatchAnswer, ValidationAnswer, DeliveryAnswer)
