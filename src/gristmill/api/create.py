"""From the body of a create to a batch that can be stored: every problem at once, nothing stored before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from gristmill import processors
from gristmill.api import problems, snapshots
from gristmill.api.draft import AnyProcessor, Draft, is_list, read_requests
from gristmill.api.parts import Parts
from gristmill.api.problems import MAX_PROBLEMS, pointer
from gristmill.api.schemas import MAX_ITEM_BYTES, BatchOptions, WebhookOptions
from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.ids import uuid7
from gristmill.domain.outcomes import ItemError
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.processors.agent_message import AgentMessage
from gristmill.store import rejects
from gristmill.store.batches import NewBatch, NewItem, NewWebhook
from gristmill.store.keys import Key

# Of a request that is stored as failed.
PROBLEMS_EACH = 10
NAME_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a body: a batch with its items, or None and the draft's problems."""

    draft: Draft
    batch: tuple[NewBatch, list[NewItem]] | None


async def new_batch(parts: Parts, key: Key, body: dict[str, Any]) -> tuple[NewBatch, list[NewItem]]:
    """Raises Invalid with everything that is wrong, at most 100 problems."""
    checked = await check(parts, key, body)
    if checked.batch is None:
        raise Invalid(checked.draft.problems[:MAX_PROBLEMS])
    return checked.batch


async def check(parts: Parts, key: Key, body: dict[str, Any]) -> Checked:
    """Everything that a create looks at; stores nothing."""
    options, found = problems.check(BatchOptions, {name: body[name] for name in body if name != "requests"})
    # Where an option is wrong, what the requests are for may still be clear: then they are checked, too.
    kind = options or problems.check(BatchOptions, {name: body[name] for name in _KIND if name in body})[0]
    draft = Draft(found)
    processor = _processor(kind, draft) if kind else None
    if "requests" not in body:
        draft.missing("/requests")
    elif is_list(body["requests"], draft):
        failing = options is not None and options.on_invalid == "fail_items"
        read_requests(body["requests"], processor, draft, each=PROBLEMS_EACH if failing else None)
    config = await _config(parts, key, kind, processor, draft) if kind and processor else None
    webhook = _webhook(parts, options.webhook, draft) if options else None
    texts = _texts(draft)
    if options is not None and options.on_invalid == "fail_items":
        draft.set_aside()
    if draft.problems or options is None or processor is None or config is None:
        return Checked(draft, None)
    new = _new(parts, key, options, processor, config, webhook)
    return Checked(draft, (new, _items(processor, draft, texts)))


_KIND = ("agent_id", "processor", "config")


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
    model, found = processors.validate_config(processor, raw)
    draft.problems += found
    return None if model is None else orjson.dumps(raw).decode()


# --- the items ------------------------------------------------------------------------------------------------


def _texts(draft: Draft) -> list[str]:
    """The inputs as they are stored; null in place of one that is too large to be."""
    texts = []
    for index, raw in enumerate(draft.raw_inputs):
        text = orjson.dumps(raw)
        if len(text) > MAX_ITEM_BYTES:
            draft.wrong(draft.input_at(index), "item_too_large", f"larger than {MAX_ITEM_BYTES} bytes")
            text = b"null"
        texts.append(text.decode())
    return texts


def _items(processor: AnyProcessor, draft: Draft, texts: Sequence[str]) -> list[NewItem]:
    return [_item(processor, draft, index, text) for index, text in enumerate(texts)]


def _item(processor: AnyProcessor, draft: Draft, index: int, text: str) -> NewItem:
    custom_id, model = draft.custom_ids[index], draft.inputs[index]
    if model is None or index in draft.refused:
        return NewItem(custom_id, text, error=_refusal(index, draft.refused[index]))
    name = processor.item_name(model)
    return NewItem(custom_id, text, processor.history_id(model), name[:NAME_CHARACTERS] if name else None)


def _refusal(index: int, found: Sequence[Problem]) -> str:
    """The error of a request that is stored as failed, as JSON."""
    here = pointer("requests", index)
    told = [f"{one.pointer.removeprefix(here)}: {one.detail}" for one in found[:PROBLEMS_EACH]]
    suggestion = "Post it again, corrected, in another batch."
    error = ItemError(rejects.CODE, "invalid_request", "; ".join(told), suggestion=suggestion)
    return orjson.dumps(error.as_json()).decode()


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
