"""From the body of a create to a batch that can be stored: every problem at once, nothing stored before."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson

from gristmill import processors
from gristmill.api import problems, snapshots
from gristmill.api.aside import Run, at_once
from gristmill.api.draft import AnyProcessor, Draft, is_list, read_requests
from gristmill.api.parts import Parts
from gristmill.api.problems import MAX_PROBLEMS
from gristmill.api.schemas import MAX_ITEM_BYTES, BatchOptions, WebhookOptions
from gristmill.domain.errors import Invalid
from gristmill.domain.ids import uuid7
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.processors.agent_message import AgentMessage
from gristmill.store.batches import NewBatch, NewItem, NewWebhook
from gristmill.store.keys import Key


async def new_batch(
    parts: Parts, key: Key, body: dict[str, Any], run: Run = at_once
) -> tuple[NewBatch, list[NewItem]]:
    """Raises Invalid with everything that is wrong, at most 100 problems. `run` does what takes long for a large body."""
    options, kind, processor, draft = await run(_drafted, body)
    config = await _config(parts, key, kind, processor, draft) if kind and processor else None
    webhook = _webhook(parts, options.webhook, draft) if options else None
    if draft.problems or options is None or processor is None or config is None:
        raise _invalid(draft)
    return _new(parts, key, options, processor, config, webhook), await run(_items, processor, draft)


_KIND = ("agent_id", "processor", "config")


def _drafted(
    body: dict[str, Any],
) -> tuple[BatchOptions | None, BatchOptions | None, AnyProcessor | None, Draft]:
    """The options, those that say what the requests are for, what does the work, and the requests."""
    options, found = problems.check(BatchOptions, {name: body[name] for name in body if name != "requests"})
    # Where an option is wrong, what the requests are for may still be clear: then they are checked, too.
    kind = options or problems.check(BatchOptions, {name: body[name] for name in _KIND if name in body})[0]
    draft = Draft(found)
    processor = _processor(kind, draft) if kind else None
    if "requests" not in body:
        draft.missing("/requests")
    elif is_list(body["requests"], draft):
        read_requests(body["requests"], processor, draft)
    return options, kind, processor, draft


def _invalid(draft: Draft) -> Invalid:
    return Invalid(draft.problems[:MAX_PROBLEMS])


# --- what kind of work ----------------------------------------------------------------------------------------


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
) -> str | None:
    """The snapshot that the batch will run with, as JSON; None if something is wrong with it."""
    if options.agent_id is not None:
        return await snapshots.of_agents(parts, key.tenant_id, options.agent_id, draft)
    raw = {} if options.config is None else options.config
    text = orjson.dumps(raw).decode()
    if len(text) > MAX_ITEM_BYTES:
        draft.wrong("/config", "config_too_large", f"larger than {MAX_ITEM_BYTES} bytes")
        return None
    model, found = processors.validate_config(processor, raw)
    draft.problems += found
    return None if model is None else text


def _items(processor: AnyProcessor, draft: Draft) -> list[NewItem]:
    """Raises Invalid if an item is too large to be stored."""
    items = []
    for index, raw in enumerate(draft.raw_inputs):
        text, model = orjson.dumps(raw), draft.inputs[index]
        if len(text) > MAX_ITEM_BYTES:
            draft.wrong(draft.input_at(index), "item_too_large", f"larger than {MAX_ITEM_BYTES} bytes")
        elif model is not None:
            items.append(NewItem(draft.custom_ids[index], text.decode(), processor.history_id(model)))
    if draft.problems:
        raise _invalid(draft)
    return items


# --- the rest -------------------------------------------------------------------------------------------------


def _webhook(parts: Parts, options: WebhookOptions | None, draft: Draft) -> WebhookOptions | None:
    if options is None:
        return None
    try:
        check_url(options.url, allow_private=parts.settings.allow_private_addresses)
    except AddressRefused as refused:
        draft.wrong("/webhook/url", "address_refused", str(refused))
    return options


def _new(
    parts: Parts,
    key: Key,
    options: BatchOptions,
    processor: AnyProcessor,
    config: str,
    webhook: WebhookOptions | None,
) -> NewBatch:
    batch_id = uuid7()
    timeout = options.item_timeout_seconds
    return NewBatch(
        id=batch_id,
        tenant_id=key.tenant_id,
        processor=processor.name,
        config=config,
        agent_id=options.agent_id,
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
        webhook=_new_webhook(parts, batch_id, webhook),
    )


def _new_webhook(parts: Parts, batch_id: UUID, options: WebhookOptions | None) -> NewWebhook | None:
    if options is None:
        return None
    secret = options.secret
    sealed = None if secret is None else parts.vault.encrypt(secret.encode(), f"webhook:{batch_id}")
    return NewWebhook(options.url, _events(options.events), sealed)


def _events(given: Iterable[str]) -> tuple[str, ...]:
    """Without the prefix, each once, in the order given."""
    return tuple(dict.fromkeys(event.removeprefix("batch.") for event in given))
