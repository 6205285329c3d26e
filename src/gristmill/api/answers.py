"""The shapes of answers, for the OpenAPI document. Answers are written without them (docs/decisions on speed)."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from gristmill.domain.limits import LimitAction
from gristmill.domain.states import BatchStatus, DeliveryStatus, ItemStatus


class Pagination(BaseModel):
    limit: int
    offset: int | None
    total_records: int
    total_pages: int
    current_page: int | None
    next_page: str | None
    prev_page: str | None
    next_cursor: str | None


class ProblemAnswer(BaseModel):
    pointer: str
    code: str
    detail: str


class ErrorObject(BaseModel):
    type: str
    code: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemAnswer]


class ErrorAnswer(BaseModel):
    data: None
    message: str
    error_code: int
    error: ErrorObject


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


class McpServerAnswer(BaseModel):
    name: str
    url: str
    header_names: list[str]


class _AgentContent(BaseModel):
    name: str
    model: str | None
    instructions: str
    parameters: dict[str, Any]
    mcp_servers: list[McpServerAnswer]


class AgentAnswer(_AgentContent):
    id: UUID
    version: int
    published_version: int | None
    created_at: datetime
    updated_at: datetime


class AgentVersionAnswer(_AgentContent):
    agent_id: UUID
    version: int
    created_at: datetime
    published_at: datetime | None


class ConfigurationAnswer(BaseModel):
    id: str
    name: str
    processor: str
    config: dict[str, Any] | None
    preset: bool
    created_at: datetime | None
    updated_at: datetime | None


class KeyAnswer(BaseModel):
    id: UUID
    name: str
    prefix: str
    last_four: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: UUID | None


class NewKeyAnswer(KeyAnswer):
    key: str


class ActorAnswer(BaseModel):
    kind: Literal["api_key", "jwt", "command_line"]
    id: str | None
    name: str | None


class ActAnswer(BaseModel):
    id: UUID
    at: datetime
    action: Literal["api_key.created", "api_key.rotated", "api_key.revoked", "limit.set", "limit.removed"]
    target_id: UUID
    actor: ActorAnswer
    address: str | None
    request_id: str | None
    details: dict[str, Any]


class LimitAnswer(BaseModel):
    kind: Literal["tenant", "processor", "upstream"]
    name: str
    max_in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    changed_at: datetime
    in_flight: int
    granted: int | None


class FileAnswer(BaseModel):
    id: UUID
    filename: str
    media_type: str
    bytes: int
    sha256: str
    lines: int | None
    records: int | None
    purpose: str | None
    source_url: str | None
    created_at: datetime
    expires_at: datetime | None


class LinkAnswer(BaseModel):
    url: str
    expires_at: datetime


class DirectoryAnswer(BaseModel):
    id: UUID
    name: str
    files: int
    created_at: datetime


class DirectoryFileAnswer(BaseModel):
    name: str
    added_at: datetime
    file: FileAnswer


class ChatAnswer(BaseModel):
    history_id: int
    agent_id: UUID | None
    name: str | None
    external_user_id: str | None
    created_at: datetime


class MessageAnswer(BaseModel):
    role: Literal["user", "assistant"]
    content: str
    attached_file_uuids: list[UUID]
    conversation_id: int
    batch_id: UUID
    created_at: datetime


class ProcessorAnswer(BaseModel):
    name: str
    description: str
    configured_by: Literal["agent_id", "config"]
    input_schema: dict[str, Any]
    config_schema: dict[str, Any] | None


MODELS: tuple[type[BaseModel], ...] = (
    Pagination,
    ErrorAnswer,
    BatchAnswer,
    ResultAnswer,
    ResultDetail,
    StagedResult,
    StagedResultDetail,
    ValidationAnswer,
    TaskAnswer,
    TaskDetail,
    TaskSummary,
    DeliveryAnswer,
    AgentAnswer,
    ConfigurationAnswer,
    AgentVersionAnswer,
    KeyAnswer,
    NewKeyAnswer,
    ActAnswer,
    LimitAnswer,
    FileAnswer,
    LinkAnswer,
    DirectoryAnswer,
    DirectoryFileAnswer,
    ChatAnswer,
    MessageAnswer,
    ProcessorAnswer,
)
