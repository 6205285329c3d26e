"""From the body of a create to a batch that can be stored: every problem at once, nothing stored before."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from gristmill import processors
from gristmill.api import configurations, sources
from gristmill.api.aside import Run, at_once
from gristmill.api.parts import Parts
from gristmill.api.schemas import (
    BatchOptions,
    ListedWebhook,
    ThresholdOptions,
    UpstreamOptions,
    WebhookOptions,
)
from gristmill.api.sources import FromDirectory, FromFile
from gristmill.db import Transaction
from gristmill.domain import circuits
from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.ids import uuid7
from gristmill.domain.limits import Budget, FailureThreshold
from gristmill.domain.webhooks import Hook, Signature
from gristmill.domain.webhooks import binding as webhook_binding
from gristmill.intake import items, problems, snapshots
from gristmill.intake.draft import MAX_ITEM_BYTES, AnyProcessor, Draft, is_list, read_requests
from gristmill.intake.items import PROBLEMS_EACH
from gristmill.intake.problems import MAX_PROBLEMS
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.processors.agent_message import AgentMessage
from gristmill.processors.secrets import binding, taken_out, upstream_binding
from gristmill.store import new_batches
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch, NewItem, NewUpstream, NewWebhook

Content = list[NewItem] | FromFile | FromDirectory


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a body: a batch with its items, or where they are; or None and the draft's problems."""

    draft: Draft
    batch: tuple[NewBatch, Content] | None


async def new_batch(
    parts: Parts, key: Key, body: dict[str, Any], run: Run = at_once, laid_out: FromFile | None = None
) -> tuple[NewBatch, Content]:
    """Raises Invalid with everything that is wrong, at most 100 problems. `run` does what takes long for a large body.
    `laid_out`: the requests, where they are checked and in the storage already (api/inline.py)."""
    checked = await check(parts, key, body, run, laid_out)
    if checked.batch is None:
        raise Invalid(checked.draft.problems[:MAX_PROBLEMS])
    return checked.batch


async def check(
    parts: Parts, key: Key, body: dict[str, Any], run: Run = at_once, laid_out: FromFile | None = None
) -> Checked:
    """Everything that a create looks at; stores nothing."""
    options, kind, found = await run(_options, body)
    draft = Draft(found, parts.settings.allow_private_addresses)
    if kind and kind.configuration_id is not None:
        kind = await _configured(parts, key, kind, draft)
    processor = _processor(kind, draft) if kind else None
    failing = options is not None and options.on_invalid == "fail_items"
    config_given = kind.config if kind else None
    source = laid_out or await _source(parts, key, body, options, processor, config_given, draft)
    if "requests" in body:
        await run(_read, body["requests"], processor, draft, failing)
    config = await _config(parts, key, kind, processor, draft) if kind and processor else None
    if options and options.upstream and processor and not processor.uses_upstream:
        draft.wrong("/upstream", "calls_no_model", "the processor calls no model")
    if options:
        _check_webhooks(parts, options, draft)
    texts = await run(items.texts, draft)
    if failing:
        draft.set_aside()
    if draft.problems or options is None or processor is None or config is None:
        return Checked(draft, None)
    new = _new(parts, key, options, processor, config)
    content: Content = await run(items.of, processor, draft, texts) if source is None else source
    return Checked(draft, (new, content))


def _options(body: dict[str, Any]) -> tuple[BatchOptions | None, BatchOptions | None, list[Problem]]:
    """What stands beside the requests; if it is wrong somewhere, as far as it says what they are for: then they are checked,
    too."""
    options, found = problems.check(BatchOptions, {name: body[name] for name in body if name != "requests"})
    if options is not None:
        return options, options, found
    kind, _ = problems.check(BatchOptions, {name: body[name] for name in _KIND if name in body})
    return None, kind, found


def _read(requests: Any, processor: AnyProcessor | None, draft: Draft, failing: bool) -> None:
    if is_list(requests, draft):
        read_requests(requests, processor, draft, each=PROBLEMS_EACH if failing else None)


async def store(tx: Transaction, new: NewBatch, content: Content) -> None:
    """Whole or not at all: with the caller's transaction."""
    if isinstance(content, list):
        await new_batches.create(tx, new, content)
    else:
        await content.create(tx, new)


async def _source(
    parts: Parts,
    key: Key,
    body: dict[str, Any],
    options: BatchOptions | None,
    processor: AnyProcessor | None,
    config: dict[str, Any] | None,
    draft: Draft,
) -> FromFile | FromDirectory | None:
    if "requests" not in body and "source" not in body:
        draft.missing("/requests")
    if "requests" in body and "source" in body:
        draft.wrong("/source", "requests_or_source", "give either requests or a source")
        return None
    if options is None or options.source is None:
        return None
    failing = options.on_invalid == "fail_items"
    return await sources.chosen(
        parts, key.tenant_id, options.source, processor, draft, fail_items=failing, config=config
    )


class Snapshot(NamedTuple):
    """A configuration as JSON, its secrets in clear (processors/secrets.py), and whom the items call (domain/circuits.py)."""

    config: str
    secrets: bytes | None
    endpoint: str | None


_KIND = ("agent_id", "processor", "config", "configuration_id")


# --- what kind of work ----------------------------------------------------------------------------------------


async def _configured(parts: Parts, key: Key, options: BatchOptions, draft: Draft) -> BatchOptions | None:
    """The options with the processor and the configuration that `configuration_id` stands for."""
    assert options.configuration_id is not None
    for name in ("agent_id", "config"):
        if getattr(options, name) is not None:
            draft.wrong(f"/{name}", "with_configuration", f"a configuration_id takes the place of {name}")
    copy = await configurations.copied(parts, key.tenant_id, options.configuration_id)
    if copy is None:
        draft.wrong("/configuration_id", "unknown_configuration", "no such configuration")
        return None
    processor, config = copy
    if options.processor not in (None, processor):
        draft.wrong("/processor", "other_processor", "the configuration is for another processor")
    return options.model_copy(update={"processor": processor, "config": config, "agent_id": None})


def _processor(options: BatchOptions, draft: Draft) -> AnyProcessor | None:
    named = options.processor
    if options.agent_id is not None:
        if options.config is not None:
            draft.wrong("/config", "config_with_agent", "an agent is its own configuration: leave config out")
        named = named or AgentMessage.name
    if named is None:
        draft.wrong("", "agent_or_processor", "name an agent_id or a processor")
        return None
    if (named == AgentMessage.name) != (options.agent_id is not None):
        draft.wrong(
            "/agent_id", "agent_or_processor", f"agent_id and the processor {AgentMessage.name} go together"
        )
        return None
    found = processors.registry().get(named)
    if found is None:
        draft.wrong("/processor", "unknown_processor", "no such processor; GET /api/v1/processors lists them")
    return found


async def _config(
    parts: Parts, key: Key, options: BatchOptions, processor: AnyProcessor, draft: Draft
) -> Snapshot | None:
    """What the batch will run with; None if something is wrong with it."""
    if options.agent_id is not None:
        of_agents = await snapshots.of_agents(parts.database, key.tenant_id, options.agent_id, draft)
        if of_agents is None:
            return None
        return Snapshot(of_agents.model_dump_json(), None, processor.depends_on(of_agents))
    raw = {} if options.config is None else options.config
    text = orjson.dumps(raw).decode()
    if len(text) > MAX_ITEM_BYTES:
        draft.wrong("/config", "config_too_large", f"larger than {MAX_ITEM_BYTES} bytes")
        return None
    # A stored configuration was checked when it was stored; the processor and the settings may have changed since.
    at = "/config" if options.configuration_id is None else "/configuration_id"
    open_for = parts.settings.allow_private_addresses
    model, found = processors.validate_config(processor, raw, pointer=at, allow_private=open_for)
    draft.problems += found
    if model is None:
        return None
    shown, secrets = taken_out(model)
    # Where nothing has to be hidden it is kept as it was given.
    return Snapshot(text if secrets is None else shown, secrets, processor.depends_on(model))


# --- the rest -------------------------------------------------------------------------------------------------


def _check_webhooks(parts: Parts, options: BatchOptions, draft: Draft) -> None:
    urls = {f"/webhooks/{place}/url": one.url for place, one in enumerate(options.webhooks)}
    if options.webhook is not None:
        urls["/webhook/url"] = options.webhook.url
    for pointer, url in urls.items():
        try:
            check_url(url, allow_private=parts.settings.allow_private_addresses)
        except AddressRefused as refused:
            draft.wrong(pointer, "address_refused", str(refused))


def _new(
    parts: Parts,
    key: Key,
    options: BatchOptions,
    processor: AnyProcessor,
    snapshot: Snapshot,
) -> NewBatch:
    batch_id = uuid7()
    config, secrets, endpoint = snapshot
    timeout = options.item_timeout_seconds
    return NewBatch(
        id=batch_id,
        tenant_id=key.tenant_id,
        processor=processor.name,
        config=config,
        agent_id=options.agent_id,
        configuration_id=options.configuration_id,
        name=options.name,
        metadata=options.metadata,
        collection=options.collection,
        created_by=key.name,
        priority=options.priority,
        max_attempts=options.max_attempts,
        item_timeout_seconds=parts.settings.item_timeout_seconds if timeout is None else timeout,
        max_concurrency=options.max_concurrency,
        deadline_seconds=options.deadline_seconds,
        start_paused=options.start_paused,
        retention_days=options.retention_days or parts.settings.retention_days,
        webhook=_new_webhook(parts, batch_id, options.webhook),
        webhooks=tuple(_hook(parts, batch_id, place, one) for place, one in enumerate(options.webhooks)),
        config_secrets=None if secrets is None else parts.vault.encrypt(secrets, binding(batch_id)),
        upstream=new_upstream(parts, batch_id, options.upstream),
        failure_threshold=_threshold(options.failure_threshold),
        budget=Budget(options.budget.max_tokens, options.budget.action) if options.budget else None,
        circuit=circuits.name(endpoint, _own_key(options.upstream), parts.vault.fingerprint),
        quotas=parts.quotas,
    )


def _threshold(options: ThresholdOptions | None) -> FailureThreshold | None:
    if options is None:
        return None
    return FailureThreshold(Decimal(str(options.ratio)), options.minimum, options.action)


def new_upstream(parts: Parts, batch_id: UUID, options: UpstreamOptions | None) -> NewUpstream | None:
    if options is None:
        return None
    secret = _own_key(options)
    sealed = None if secret is None else parts.vault.encrypt(secret.encode(), upstream_binding(batch_id))
    circuit = circuits.name(circuits.MODEL, secret, parts.vault.fingerprint)
    return NewUpstream(options.model, sealed, circuit)


def _own_key(options: UpstreamOptions | None) -> str | None:
    return options.api_key.get_secret_value() if options and options.api_key else None


def _new_webhook(parts: Parts, batch_id: UUID, options: WebhookOptions | None) -> NewWebhook | None:
    if options is None:
        return None
    secret = options.secret
    sealed = None if secret is None else parts.vault.encrypt(secret.encode(), webhook_binding(batch_id, None))
    return NewWebhook(options.url, _events(options.events), sealed)


def _hook(parts: Parts, batch_id: UUID, place: int, options: ListedWebhook) -> Hook:
    sealed = None
    if options.secret is not None or options.headers:
        headers = {name: value.get_secret_value() for name, value in options.headers.items()}
        secrets = orjson.dumps({"secret": options.secret, "headers": headers})
        sealed = parts.vault.encrypt(secrets, webhook_binding(batch_id, place))
    signatures = tuple(Signature(one) for one in dict.fromkeys(options.signatures))
    return Hook(options.url, _events(options.events), signatures, sealed)


def _events(given: Iterable[str]) -> tuple[str, ...]:
    """Without the prefix, each once, in the order given."""
    return tuple(dict.fromkeys(event.removeprefix("batch.") for event in given))
