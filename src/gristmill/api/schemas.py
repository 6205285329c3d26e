"""What a caller may send to make a batch. These models check requests and write the OpenAPI document."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gristmill.domain.webhooks import DEFAULT_SIGNATURES
from gristmill.intake.draft import MAX_CUSTOM_ID, MAX_ITEMS
from gristmill.intake.source import Delimiter, Format
from gristmill.processors.agent_message import AgentMessageInput
from gristmill.processors.fields import CanonicalUUID, SecretHeaders

_TOKEN = re.compile(r"[\x21-\x7e]+")
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# fmt: off
Event = Literal[
    "completed", "failed", "cancelled", "created", "started", "paused", "resumed",
    "batch.completed", "batch.failed", "batch.cancelled", "batch.created", "batch.started", "batch.paused", "batch.resumed",
]
# fmt: on
MAX_WEBHOOKS = 8
MAX_HEADER_CHARACTERS = 8192
SignatureName = Literal["standard", "codeer", "llamacloud"]


class Strict(BaseModel):
    """Unknown fields are refused, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True)


class WebhookOptions(Strict):
    url: Annotated[str, Field(max_length=2048, description="HTTPS, port 443, a public address")]
    events: Annotated[list[Event], Field(min_length=1, max_length=14)] = ["completed", "failed"]
    secret: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        None, description="Signs each delivery. Never shown again."
    )


class ListedWebhook(WebhookOptions):
    """One of several, each told on its own."""

    headers: SecretHeaders = Field({}, description="Sent along, encrypted at rest, never shown again")
    signatures: Annotated[list[SignatureName], Field(min_length=1, max_length=3)] = Field(
        [one.value for one in DEFAULT_SIGNATURES],
        description="`standard`: webhook-signature; `codeer`: X-Codeer-Signature; `llamacloud`: LC-Signature, over the body "
        "alone",
    )

    @model_validator(mode="after")
    def _can_sign(self) -> Self:
        if "signatures" in self.model_fields_set and self.secret is None:
            raise PydanticCustomError("secret_missing", "without a secret nothing is signed")
        if sum(len(value.get_secret_value()) for value in self.headers.values()) > MAX_HEADER_CHARACTERS:
            raise PydanticCustomError(
                "headers_too_large", f"all values together: at most {MAX_HEADER_CHARACTERS} characters"
            )
        return self


class UpstreamOptions(Strict):
    """A key and a model of the batch's own, for its calls to the model. The endpoint stays the operator's."""

    api_key: Annotated[SecretStr, Field(max_length=1024)] | None = Field(
        None,
        description="In place of GRISTMILL_LLM_API_KEY; encrypted, never shown, dropped when the batch ends",
    )
    model: Name | None = Field(
        None,
        description="In place of GRISTMILL_LLM_MODEL: where an agent, a request or the config names none",
    )

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("key_or_model", "give an api_key, a model, or both")
        if self.api_key is not None and not _TOKEN.fullmatch(self.api_key.get_secret_value()):
            raise PydanticCustomError(
                "api_key", "the key is empty or has characters that no header can carry"
            )
        return self


class SourceOptions(Strict):
    """Where the requests are, if not in the body: one of `file_id` and `directory_id`."""

    file_id: CanonicalUUID | None = Field(None, description="An uploaded file, a request a line or a record")
    directory_id: CanonicalUUID | None = Field(
        None, description="A directory: a request for each of its files, whose custom_id is the file's id"
    )
    format: Format | None = Field(None, description="Of the file; otherwise its name must tell")
    column_mapping: Annotated[dict[str, str | None], Field(max_length=1000)] | None = Field(
        None,
        description="Of a CSV file: column → field of the processor's input, or custom_id; null leaves a column out",
    )
    encoding: Annotated[str, StringConstraints(min_length=1, max_length=40)] | None = Field(
        None, description="Of a CSV file; otherwise it is found out"
    )
    delimiter: Delimiter | None = Field(None, description="Of a CSV file; otherwise it is found out")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file_id is None) == (self.directory_id is None):
            raise PydanticCustomError("file_or_directory", "give either file_id or directory_id")
        if self.directory_id is not None and self.model_fields_set - {"directory_id"}:
            raise PydanticCustomError("only_for_files", "nothing else goes with a directory_id")
        return self


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
Priority = Annotated[int, Field(ge=-100, le=100)]
DeadlineSeconds = Annotated[int, Field(ge=10, le=2_592_000)]
MaxConcurrency = Annotated[int, Field(ge=1, le=10_000)]
RetentionDays = Annotated[int, Field(ge=1, le=3650)]


class BatchOptions(Strict):
    """Everything of a create but the requests themselves."""

    agent_id: CanonicalUUID | None = Field(
        None, description="Default agent of all requests; must be published"
    )
    processor: Name | None = Field(None, description="In place of agent_id: any other kind of work")
    config: dict[str, Any] | None = Field(None, description="The processor's configuration")
    configuration_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        None, description="In place of processor and config: a stored configuration, or a preset"
    )
    source: SourceOptions | None = Field(None, description="In place of requests: up to 1,000,000 of them")
    upstream: UpstreamOptions | None = None
    webhook: WebhookOptions | None = None
    webhooks: Annotated[list[ListedWebhook], Field(max_length=MAX_WEBHOOKS)] = Field(
        [], description="More of them, each with headers and signatures of its own"
    )
    name: Name | None = None
    metadata: Metadata = {}
    collection: Name | None = None
    priority: Priority = Field(0, description="A weight; never starves others")
    deadline_seconds: DeadlineSeconds = 86_400
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    item_timeout_seconds: Annotated[float, Field(ge=1, le=3600)] | None = Field(
        None, description="Of one run of a request; 300 unless configured otherwise"
    )
    max_concurrency: MaxConcurrency | None = None
    start_paused: bool = False
    retention_days: RetentionDays | None = Field(
        None, description="After its end, the batch is kept for so long; 30 unless configured otherwise"
    )
    on_invalid: Literal["reject", "fail_items"] = Field(
        "reject",
        description="What a bad request does: reject them all, or be stored as failed with code 400 while the others run",
    )


class BatchChange(Strict):
    """What of a batch can be changed; what is left out stays."""

    name: Name | None = None
    metadata: Metadata | None = Field(None, description="Replaced as a whole")
    retention_days: RetentionDays | None = None
    priority: Priority | None = None
    max_concurrency: MaxConcurrency | None = Field(
        None, description="null, if it is given: no limit of its own"
    )
    deadline_seconds: DeadlineSeconds | None = Field(
        None, description="From the begin of the present run; what has not run by then ends with 408"
    )


CustomId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_CUSTOM_ID),
    Field(description="Your correlation key, unique in the batch"),
]


class AgentRequest(AgentMessageInput):
    """A request for an agent, flat."""

    custom_id: CustomId


class ProcessorRequest(Strict):
    """A request for any processor."""

    custom_id: CustomId
    input: Any = Field(description="As the processor's input_schema says (GET /api/v1/processors)")


class BatchCreate(BatchOptions):
    """The body of a create."""

    requests: Annotated[
        list[AgentRequest | ProcessorRequest],
        Field(min_length=1, max_length=MAX_ITEMS, description="Either these or a source"),
    ] = []


BATCH_EXAMPLES = {
    "agent": {
        "summary": "Ask a published agent",
        "value": {
            "agent_id": "550e8400-e29b-41d4-a716-446655440000",
            "requests": [
                {
                    "custom_id": "req-001",
                    "message": "What are your business hours?",
                    "external_user_id": "user_123",
                },
                {
                    "custom_id": "req-002",
                    "message": "How do I return a product?",
                    "external_user_id": "user_456",
                },
            ],
            "webhook": {
                "url": "https://your-server.com/webhooks/codeer",
                "events": ["completed", "failed"],
                "secret": "your-webhook-secret",
            },
        },
    },
    "processor": {
        "summary": "Pass bodies through to the model's endpoint",
        "value": {
            "processor": "completion",
            "config": {"path": "/embeddings"},
            "requests": [{"custom_id": "a", "input": {"input": "The mill turns."}}],
            "max_attempts": 5,
            "metadata": {"project": "docs"},
        },
    },
}
