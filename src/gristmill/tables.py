"""The tables. What Postgres can keep true, it keeps: keys, checks, uniqueness.

`item`, `result`, `result_log` and `item_attempt` are big and only ever inserted into (save that a retry takes results out);
they and `item_checkpoint` are partitioned by time of their batch (batch ids are UUIDv7) so that retention drops whole partitions.
What churns lives in tables of a few hundred narrow rows: `span`, `lease`, `batch_count`, `batch_schedule`,
`tenant_schedule`, `history_lock`, `worker`. See docs/decisions/0001-spans-and-results.md.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "pk": "%(table_name)s_pkey",
    }
)

PARTITIONED = ("item", "result", "result_log", "item_attempt", "item_checkpoint")
_PARTITIONED: dict[str, Any] = {"postgresql_partition_by": "RANGE (batch_id)"}
# Few rows, many updates: room for HOT updates in the page. Vacuum settings are in the migration (no dialect option has them).
_HOT: dict[str, Any] = {"postgresql_with": {"fillfactor": 50}}


def _id() -> Column[Any]:
    return Column("id", Uuid, primary_key=True)


def _at(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _created_at() -> Column[Any]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


def _number(name: str, kind: type[Any] = Integer) -> Column[Any]:
    """A counter that starts at 0."""
    return Column(name, kind, nullable=False, server_default=text("0"))


# --- who -------------------------------------------------------------------------------------------------------------

tenant = Table("tenant", metadata, _id(), Column("name", Text, nullable=False, unique=True), _created_at())

api_key = Table(
    "api_key",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),  # the first characters, to recognise a key by
    Column("last_four", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),  # HMAC-SHA-256 under the secret key
    Column("scopes", ARRAY(Text), nullable=False),
    _created_at(),
    _at("expires_at"),
    _at("revoked_at"),
    Column("replaced_by", Uuid),  # the key that a rotation made in its place
)

# Administrative acts: who, what, when, from where. Inserted only, and nothing secret.
audit_entry = Table(
    "audit_entry",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("action", Text, nullable=False),
    Column("target_id", Uuid, nullable=False),
    Column("actor_kind", Text, nullable=False),  # api_key, jwt, command_line
    Column("actor_id", Text),  # of the API key, or the subject of the token
    Column("actor_name", Text),
    Column("address", Text),  # the other end of the connection
    Column("request_id", Text),
    Column("details", JSONB, nullable=False),
    Index(None, "tenant_id", "id"),
)

# What a create answered, so that one that is sent again under its Idempotency-Key gets that answer and makes nothing.
idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),  # of the body, under the secret key
    Column("status", SmallInteger, nullable=False),
    Column("location", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    _at("expires_at", nullable=False),
    Index(None, "expires_at"),
)

# --- what to run -----------------------------------------------------------------------------------------------------

agent = Table(
    "agent",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("latest_version", Integer, nullable=False),
    Column("published_version", Integer),
    _created_at(),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(None, "tenant_id", "id"),
)

agent_version = Table(
    "agent_version",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("model", Text),
    Column("instructions", Text, nullable=False),
    Column("parameters", JSONB, nullable=False),
    Column(
        "mcp_servers", LargeBinary
    ),  # JSON list of {name, url, headers}, encrypted: headers carry credentials
    _created_at(),
    _at("published_at"),
)

configuration = Table(
    "configuration",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("processor", Text, nullable=False),
    Column("config", LargeBinary, nullable=False),  # JSON, encrypted: it may hold secrets
    _created_at(),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("dialect_facts", Text),  # JSON that only the dialect reads it was made through
    Index(None, "tenant_id", "id"),
)

# Where a tenant wants to be told of batches that name it: a batch takes a copy.
webhook_endpoint = Table(
    "webhook_endpoint",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    Column("sealed", LargeBinary),  # {secret, headers} as JSON, encrypted
    Column("dialect_facts", Text),  # JSON, as above
    _created_at(),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(None, "tenant_id", "id"),
)

file = Table(
    "file",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("filename", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    _created_at(),
    Column("purpose", Text),  # what its owner says it is for
    Column("source_url", Text),  # where it was fetched from, without query: that may hold a signature
    Column("lines", BigInteger),  # that are not blank; null: not a text, or older than this column
    Column("records", BigInteger),  # as a CSV file has them, its header among them; null for JSON, too
    _at("expires_at"),
    Index(None, "tenant_id", "id"),
    Index("file_expires_at_idx", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
)

# Bytes that belong to no file: of uploads on their way, and of files that were deleted. Once due, they go.
file_discard = Table(
    "file_discard",
    metadata,
    Column("file_id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    _at("due_at", nullable=False),
    Index(None, "due_at"),
)

directory = Table(
    "directory",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    _created_at(),
    Column("dialect_facts", Text),  # JSON, as above
    Index(None, "tenant_id", "id"),
)

directory_file = Table(
    "directory_file",
    metadata,
    Column("directory_id", Uuid, primary_key=True),
    Column("file_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),  # in this directory: the file's own, or its path in an archive
    Column("added_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("dialect_facts", Text),  # JSON, as above
    Index(None, "file_id"),
)

# --- chats -----------------------------------------------------------------------------------------------------------

chat = Table(
    "chat",
    metadata,
    Column("history_id", BigInteger, Identity(), primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("agent_id", Uuid),
    Column("name", Text),
    Column("external_user_id", Text),
    _created_at(),
    Index(None, "tenant_id", "history_id"),
    Index(None, "tenant_id", "external_user_id", "history_id"),
)

chat_turn = Table(
    "chat_turn",
    metadata,
    Column("history_id", BigInteger, primary_key=True, autoincrement=False),
    Column("conversation_id", BigInteger, Identity(), primary_key=True),
    Column("batch_id", Uuid, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("user_message", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("file_ids", ARRAY(Uuid), nullable=False),  # attached to the user's message
    _created_at(),
)

# --- batches ---------------------------------------------------------------------------------------------------------

batch = Table(
    "batch",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("ending", Text),  # set: nothing starts any more, and why
    Column("paused_by", Text),  # the limit that paused it; null: somebody did
    Column("processor", Text, nullable=False),
    Column("agent_id", Uuid),  # the batch's default agent
    Column("configuration_id", Text),  # where `config` was taken from, as the caller named it
    Column(
        "config", Text, nullable=False
    ),  # JSON, a snapshot: the processor's configuration, agent versions included
    Column("config_secrets", LargeBinary),  # encrypted: what `config` shows as asterisks
    Column("upstream", Text),  # JSON {model, own_key}, where the batch brought some
    Column("upstream_key", LargeBinary),  # encrypted; gone when the batch has ended
    Column("name", Text),
    Column("metadata", JSONB, nullable=False),
    Column("collection", Text),
    Column("created_by", Text),
    Column("priority", SmallInteger, nullable=False),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("item_timeout_seconds", Float, nullable=False),
    Column("max_concurrency", Integer),
    Column("deadline_seconds", Integer, nullable=False),
    _at("deadline_at", nullable=False),
    Column("total", Integer, nullable=False),
    Column("run", SmallInteger, nullable=False, server_default=text("1")),
    # Leases with smaller ids are of earlier runs: what they still bring is not recorded (store/retries.py).
    _number("first_lease_id", BigInteger),
    Column("error", Text),  # JSON: why the batch failed
    Column("webhook_url", Text),
    Column("webhook_events", ARRAY(Text)),
    Column("webhook_secret", LargeBinary),  # encrypted
    Column("webhooks", Text),  # JSON: those beside it (domain/webhooks.py), their secrets encrypted
    # Where it was made through a dialect: its name, the caller's own id for it, and JSON that only the dialect reads.
    Column("dialect", Text),
    Column("dialect_key", Text),
    Column("dialect_facts", Text),
    _created_at(),
    _at("completed_at"),  # for completed and failed
    _at("cancelled_at"),
    Column("retention_days", SmallInteger, nullable=False, server_default=text("30")),  # after its end
    _at("expires_at"),  # set with its end
    Column("circuit", Text),  # what its items call (domain/circuits.py); null: nobody
    CheckConstraint("total >= 1 AND total <= 1000000", name="total"),
    CheckConstraint(
        "status IN ('in_progress', 'paused', 'cancelling', 'completed', 'failed', 'cancelled')", name="status"
    ),
    CheckConstraint("ending IN ('cancel', 'deadline', 'threshold', 'budget')", name="ending"),
    CheckConstraint(
        "paused_by IS NULL OR (status = 'paused' AND paused_by IN ('threshold', 'budget'))", name="paused_by"
    ),
    CheckConstraint("(status IN ('completed', 'failed')) = (completed_at IS NOT NULL)", name="completed_at"),
    CheckConstraint("(status = 'cancelled') = (cancelled_at IS NOT NULL)", name="cancelled_at"),
    CheckConstraint(
        "status NOT IN ('cancelling', 'cancelled') OR ending IS NOT DISTINCT FROM 'cancel'", name="cancel"
    ),
    CheckConstraint("priority BETWEEN -100 AND 100", name="priority"),
    CheckConstraint("retention_days BETWEEN 1 AND 3650", name="retention_days"),
    CheckConstraint(
        "(status IN ('completed', 'failed', 'cancelled')) = (expires_at IS NOT NULL)", name="expires_at"
    ),
    Index(None, "tenant_id", "id"),
    Index(None, "tenant_id", "status", "id"),
    Index(None, "tenant_id", "collection", "id"),
    Index(None, "tenant_id", "created_by", "id"),
    Index("batch_expires_at_idx", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    Index("batch_dialect_idx", "tenant_id", "dialect", "id", postgresql_where=text("dialect IS NOT NULL")),
    Index(
        "batch_dialect_key_idx",
        "tenant_id",
        "dialect",
        "dialect_key",
        unique=True,
        postgresql_where=text("dialect_key IS NOT NULL"),
    ),
    Index(
        "batch_ending_idx",
        "id",
        postgresql_where=text("ending IS NOT NULL AND status IN ('in_progress', 'cancelling')"),
    ),
)

# What stays of a batch that was kept for as long as it was to be (store/retention.py).
batch_tombstone = Table(
    "batch_tombstone",
    metadata,
    _id(),
    Column("tenant_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("processor", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("success", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    _at("created_at", nullable=False),
    _at("ended_at", nullable=False),
    Column("expired_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)

# Batches that are gone, whose rows in the partitioned tables are not: they are erased from the first item on.
batch_remains = Table(
    "batch_remains",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("total", Integer, nullable=False),
    _number("erased"),  # items
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)

batch_count = Table(
    "batch_count",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("total", Integer, nullable=False),
    _number("success"),
    _number("failed"),
    _number("cancelled"),  # part of failed: code 499
    _number("expired"),  # part of failed: code 408
    _number("kept"),  # results that were there when the present run began: they say nothing about its speed
    _number("calls", BigInteger),
    _number("prompt_tokens", BigInteger),
    _number("completion_tokens", BigInteger),
    _number("cost_microusd", BigInteger),
    _at("started_at"),  # of the first item that ended
    _at("last_result_at"),
    _number("rate", Float),  # items a second, exponentially weighted up to last_result_at (store/counts.py)
    # Limits (domain/limits.py), and from which counts on they are judged.
    Column("failure_ratio", Numeric),
    Column("failure_minimum", Integer),
    Column("failure_action", Text),
    Column("max_tokens", BigInteger),
    Column("budget_action", Text),
    _number("finished_from"),
    _number("failed_from"),
    _number("tokens_from", BigInteger),
    Column("exceeded", Text),  # of a live batch: the limit it has gone beyond (store/limits.py)
    CheckConstraint("success + failed <= total", name="total"),
    CheckConstraint("cancelled + expired <= failed", name="failed"),
    CheckConstraint("kept <= success + failed", name="kept"),
    CheckConstraint("failure_ratio BETWEEN 0 AND 1 AND failure_minimum >= 1", name="failure_ratio"),
    CheckConstraint(
        "num_nulls(failure_ratio, failure_minimum, failure_action) IN (0, 3)", name="failure_threshold"
    ),
    CheckConstraint("num_nulls(max_tokens, budget_action) IN (0, 2)", name="budget"),
    CheckConstraint(
        "failure_action IN ('pause', 'fail') AND budget_action IN ('pause', 'fail')", name="action"
    ),
    CheckConstraint("exceeded IN ('threshold', 'budget')", name="exceeded"),
    Index("batch_count_exceeded_idx", "batch_id", postgresql_where=text("exceeded IS NOT NULL")),
    **_HOT,
)

# A row exists exactly as long as the batch's items are still in a file.
ingest = Table(
    "ingest",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("file_id", Uuid, nullable=False, index=True),
    Column("options", Text, nullable=False),  # JSON: how the file is to be read (intake/source.py)
    # The bytes came with the create (api/inline.py): no file of the tenant's, and gone with this row.
    Column("owned", Boolean, nullable=False, server_default=text("false")),
    _number("attempts", SmallInteger),  # its number is the right to end the ingest
    _at("leased_until"),
    _created_at(),
)

# A row exists exactly as long as the batch may start items.
batch_schedule = Table(
    "batch_schedule",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("processor", Text, nullable=False),
    Column("weight", Float, nullable=False),
    _number(
        "vtime", Float
    ),  # items started / weight: the batch with the least is next; at most 0 before the first
    Column("paused", Boolean, nullable=False),
    Column("max_concurrency", Integer),
    Column("limited", Boolean, nullable=False, server_default=text("false")),  # by a threshold or a budget
    _at("deadline_at", nullable=False),
    Column("circuit", Text),  # the batch's
    Index("batch_schedule_next_idx", "tenant_id", "vtime", "batch_id", postgresql_where=text("NOT paused")),
    Index(None, "deadline_at"),
    **_HOT,
)

# A row exists exactly as long as nothing but probes may call.
circuit = Table(
    "circuit",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    _at("until", nullable=False),  # when the next probe may start
    Column("pause_seconds", Float, nullable=False),  # from that probe to the one after it
    Column("longest_seconds", Float, nullable=False),  # what pauses grow to
    Column("opened_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # A probe has failed, too, or somebody has asked to be left alone: what failed meanwhile anywhere is excused.
    Column("confirmed", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("reason IN ('throttled', 'down')", name="reason"),
)

# What a tenant, a processor or an endpoint may have in all workers together (store/service_limits.py).
service_limit = Table(
    "service_limit",
    metadata,
    _id(),
    Column("kind", Text, nullable=False),
    Column(
        "name", Text, nullable=False
    ),  # of the tenant, of the processor; of the circuit (domain/circuits.py)
    Column("max_in_flight", Integer),  # items of a tenant or a processor, calls to an endpoint
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    _number("requests_left", Float),  # as of refilled_at: what may be taken at once; it grows at the rate
    _number("tokens_left", Float),  # likewise; below 0 after a call that used more than a second brings
    Column("refilled_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("kind", "name"),
    CheckConstraint("kind IN ('tenant', 'processor', 'upstream')", name="kind"),
    CheckConstraint("num_nonnulls(max_in_flight, requests_per_minute, tokens_per_minute) > 0", name="some"),
    CheckConstraint(
        "kind = 'upstream' OR num_nonnulls(requests_per_minute, tokens_per_minute) = 0", name="rates"
    ),
    CheckConstraint("least(max_in_flight, requests_per_minute, tokens_per_minute) >= 1", name="positive"),
    **_HOT,
)

# What one worker has of an endpoint's max_in_flight: counts as long as the worker lives (store/shares.py).
upstream_share = Table(
    "upstream_share",
    metadata,
    Column("limit_id", Uuid, primary_key=True),
    Column("worker_id", BigInteger, primary_key=True),
    Column("granted", Integer, nullable=False),
    Column("in_use", Integer, nullable=False),
    Column("waiting", Integer, nullable=False),  # calls
    Column("wanted", Integer, nullable=False),
    **_HOT,
)

tenant_schedule = Table(
    "tenant_schedule",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    _number("vtime", Float),
    _number("started", Float),  # its virtual time when it was last served
    _number("batches_started", Float),  # that of its batches: the greatest with which one was served
    **_HOT,
)

# --- items -----------------------------------------------------------------------------------------------------------

item = Table(
    "item",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),  # dense, 0 … total - 1
    Column("custom_id", Text, nullable=False),
    Column("history_id", BigInteger),  # set: no other item of this chat may run at the same time
    Column("input", Text, nullable=False),  # JSON, checked before it came here; no SQL looks inside
    Column("name", Text),  # what its processor calls it, such as the name of its file
    Index(None, "batch_id", "custom_id", unique=True),
    # For searches by name: so that they need not read the inputs.
    Index(
        "item_name_idx",
        "batch_id",
        "ordinal",
        postgresql_include=["name"],
        postgresql_where=text("name IS NOT NULL"),
    ),
    **_PARTITIONED,
)

result = Table(
    "result",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("status", SmallInteger, nullable=False),
    Column("code", SmallInteger),
    Column("attempt", SmallInteger, nullable=False),  # 0: ended without a run
    Column("content", Text),
    Column("output", Text),  # JSON
    Column("error", Text),  # JSON
    Column("usage", Text),  # JSON
    Column("history_id", BigInteger),
    Column("conversation_id", BigInteger),
    _at("started_at"),
    Column("processed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("status IN (1, 2)", name="status"),
    CheckConstraint("(status = 2) = (code IS NOT NULL)", name="code"),
    Index("result_failed_idx", "batch_id", "ordinal", postgresql_where=text("status = 2")),
    **_PARTITIONED,
)

# In what order items ended: a row for each transaction that counted some, in the order of their commits (store/feed.py).
result_log = Table(
    "result_log",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("run", SmallInteger, primary_key=True, autoincrement=False),
    Column("upto", Integer, primary_key=True, autoincrement=False),  # so many had ended with these
    Column("ordinals", ARRAY(Integer), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),  # = their processed_at
    **_PARTITIONED,
)

# Runs that did not end their item: failures that were tried again, losses, and what an earlier run of the batch ended with.
item_attempt = Table(
    "item_attempt",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("run", SmallInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("code", SmallInteger, nullable=False),
    Column("error", Text),  # JSON; as in `result`
    Column("usage", Text),  # JSON
    _at("started_at"),
    Column("ended_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    **_PARTITIONED,
)

# How far an item with several stages has come, so that its next attempt goes on from there. Only of processors that
# ask for it: at most one row an item, written a few times while it runs.
item_checkpoint = Table(
    "item_checkpoint",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("stage", Text, nullable=False),  # a word of its processor
    _number("done"),  # parts of the stage that are behind it, of `total`
    Column("total", Integer),
    Column("data", Text),  # what the next attempt needs; null once the item has succeeded
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("done >= 0 AND done <= total", name="done"),
    **_PARTITIONED,
)

span = Table(
    "span",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("batch_id", Uuid, nullable=False),
    Column("first", Integer, nullable=False),
    Column("last", Integer, nullable=False),  # inclusive
    _number("attempts", SmallInteger),  # used up
    _number("losses", SmallInteger),  # workers that died with it
    Column("available_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column(
        "waiting", Boolean, nullable=False, server_default=text("false")
    ),  # upstream was busy; else a retry
    Column("history_id", BigInteger),  # with available_at = infinity: waits for this chat
    CheckConstraint("first >= 0 AND first <= last", name="range"),
    CheckConstraint("history_id IS NULL OR first = last", name="history"),
    Index(None, "batch_id", "available_at", "id"),
    Index(None, "batch_id", "last"),
    Index("span_suspect_idx", "batch_id", postgresql_where=text("losses >= 2")),
    Index(
        "span_history_idx", "history_id", "batch_id", "first", postgresql_where=text("history_id IS NOT NULL")
    ),
    **_HOT,
)

lease = Table(
    "lease",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("batch_id", Uuid, nullable=False, index=True),
    Column("worker_id", BigInteger, nullable=False, index=True),
    Column("first", Integer, nullable=False),
    Column("last", Integer, nullable=False),
    Column("remaining", Integer, nullable=False),  # items of it without a verdict yet
    Column("attempt", SmallInteger, nullable=False),
    Column("losses", SmallInteger, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    _at("deadline_at", nullable=False),  # a live worker that still holds it then is stuck
    CheckConstraint("remaining >= 0 AND remaining <= last - first + 1", name="remaining"),
    **_HOT,
)

history_lock = Table(
    "history_lock",
    metadata,
    Column("history_id", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", Uuid, nullable=False),
    Column("ordinal", Integer, nullable=False),
    **_HOT,
)

worker = Table(
    "worker",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False),  # host:pid
    Column("processors", ARRAY(Text), nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("dead", Boolean, nullable=False, server_default=text("false")),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("beat_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    **_HOT,
)

# --- webhooks --------------------------------------------------------------------------------------------------------

event = Table(
    "event",
    metadata,
    Column("id", Text, primary_key=True),  # evt_…, derived from (batch, type, run, occurrence)
    Column("batch_id", Uuid, nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),  # without the batch. prefix
    Column("run", SmallInteger, nullable=False),
    Column("body", Text, nullable=False),  # the exact bytes of every send, save where a delivery has its own
    _created_at(),
    # The n-th of its type in its run.
    Column("occurrence", Integer, nullable=False, server_default=text("1")),
    Index(None, "batch_id", "type", "run", "occurrence", unique=True),
)

delivery = Table(
    "delivery",
    metadata,
    _id(),
    Column("event_id", Text, nullable=False, index=True),
    Column("batch_id", Uuid, nullable=False, index=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", LargeBinary),  # encrypted; of one in a batch's list: its headers, too
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    _number("attempts"),  # all sends so far
    _number("position", SmallInteger),  # in the schedule; starts again at a redelivery
    Column("next_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    _at("leased_until"),  # a sender has it until then
    _at("delivered_at"),
    _created_at(),
    Column("hook", SmallInteger),  # its place in the batch's list; null: it is the batch's `webhook`
    Column("signatures", ARRAY(Text)),  # null: the usual two
    Column("body", Text),  # null: that of the event
    CheckConstraint("status IN ('pending', 'delivered', 'dead')", name="status"),
    CheckConstraint("(status = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_at"),
    Index("delivery_next_idx", "next_at", postgresql_where=text("status = 'pending'")),
)

delivery_attempt = Table(
    "delivery_attempt",
    metadata,
    Column("delivery_id", Uuid, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("sent_at", DateTime(timezone=True), nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("status_code", Integer),
    Column("error", Text),  # a word: timeout, refused, tls, …; never more than the tenant may know
    Column("response", Text),  # the first bytes of the answer
)
