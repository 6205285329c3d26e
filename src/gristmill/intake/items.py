"""From a draft to the items that are stored: the good ones, and those that are stored as failed."""

from collections.abc import Sequence

import orjson

from gristmill.domain.errors import Problem
from gristmill.domain.outcomes import ItemError
from gristmill.intake.draft import MAX_ITEM_BYTES, AnyProcessor, Draft
from gristmill.intake.problems import pointer
from gristmill.store import rejects
from gristmill.store.new_batches import NewItem

PROBLEMS_EACH = 10  # told of a request that is stored as failed
NAME_CHARACTERS = 255
_CERTAIN_CHARACTERS = MAX_ITEM_BYTES // 4  # no more bytes than there may be, whatever they are


def texts(draft: Draft) -> list[str]:
    """The inputs as they are stored; null in place of one that is too large to be, which is a problem."""
    stored = draft.texts.copy()
    for index, text in enumerate(draft.texts):
        if len(text) > _CERTAIN_CHARACTERS and len(text.encode()) > MAX_ITEM_BYTES:
            draft.wrong(draft.input_at(index), "item_too_large", f"larger than {MAX_ITEM_BYTES} bytes")
            stored[index] = "null"
    return stored


def of(processor: AnyProcessor, draft: Draft, stored: Sequence[str]) -> list[NewItem]:
    """`stored`: what `texts` answered. Of a draft whose problems have been set aside, or that has none."""
    # As with most: nothing to be found out.
    if not (draft.refused or processor.has_chats or processor.has_names):
        return [NewItem(custom_id, text) for custom_id, text in zip(draft.custom_ids, stored, strict=True)]
    return [_item(processor, draft, index, text) for index, text in enumerate(stored)]


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
