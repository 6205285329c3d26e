"""Results as JSON text, straight from their rows: what is JSON already goes out as it is, what never needs a quote, too.

Of a stream this is most of what Python does: 2 µs a row, and 5 by way of a `Result` and the view of it (docs/performance.md).
"""

from collections.abc import Callable
from datetime import datetime
from operator import itemgetter
from typing import Any

import orjson

from gristmill.api.envelope import dumps
from gristmill.domain.states import ItemStatus
from gristmill.store.results import Result, Row, result_of

_SHAPE = (
    '{"custom_id":%s,"status":"%s","response_content":%s,"response_usage":%s,"error_code":null,"error_message":null,'
    '"history_id":%s,"conversation_id":%s,"processed_at":%s,"output":%s,"error":null,"attempt":%s,"started_at":%s,'
    '"ordinal":%d}'
)
_columns = itemgetter(
    "ordinal", "custom_id", "status", "code", "processing", "content", "usage", "history_id", "given_history_id",
    "conversation_id", "processed_at", "output", "attempt", "started_at",
)  # fmt: skip
_SUCCESS = 1


class ResultText:
    """Of one answer. `view`: the shape of a result, for those that failed: they are few, and need more looking after."""

    def __init__(self, view: Callable[[Result], dict[str, Any]]) -> None:
        self._view = view
        # The last ones: a lease, and a flush, have one for all their items.
        self._started: tuple[datetime | None, str] = (None, "null")
        self._processed: tuple[datetime | None, str] = (None, "null")

    def of(self, row: Row) -> str:
        """As `dumps(view(…))`. One function on purpose: a call in Python costs a tenth of all of it."""
        (
            ordinal, custom_id, status, code, processing, content, usage, history_id, given_history_id,
            conversation_id, processed, output, attempt, started,
        ) = _columns(row)  # fmt: skip
        if code is not None:
            return dumps(self._view(result_of(row))).decode()
        if started != self._started[0]:
            self._started = (started, dumps(started).decode())
        if processed != self._processed[0]:
            self._processed = (processed, dumps(processed).decode())
        if history_id is None:
            history_id = given_history_id
        return _SHAPE % (
            orjson.dumps(custom_id).decode(),
            "success" if status == _SUCCESS else _RUNNING if processing else _WAITING,
            "null" if content is None else orjson.dumps(content).decode(),
            usage or "null",  # no JSON is an empty text
            "null" if history_id is None else history_id,
            "null" if conversation_id is None else conversation_id,
            self._processed[1],
            output or "null",
            "null" if attempt is None else attempt,
            self._started[1],
            ordinal,
        )


_RUNNING, _WAITING = ItemStatus.PROCESSING.value, ItemStatus.PENDING.value
