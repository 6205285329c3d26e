"""The shapes of answers, for the OpenAPI document. Answers are written without them (docs/decisions on speed).

Those of batches: `api/batch_answers.py`. Those of their items: `api/item_answers.py`.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel


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
