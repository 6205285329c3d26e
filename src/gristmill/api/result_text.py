"""Results as JSON text, straight from their rows: what is JSON already goes out as it is, what never needs a quote, too.

Of a stream this is most of what Python does: 2 µs a row, and 5 by way of a `Result` and the view of it (docs/performance.md).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from gristmill.api.envelope import dumps
from gristmill.domain.states import ItemStatus
from gristmill.store.results import Result, Row, result_of

_SHAPE = (
    '{"custom_id":%s,"status":"%s","response_content":%s,"response_usage":%s,"error_code":null,"error_message":null,'
    '"history_id":%s,"conversation_id":%s,"processed_at":%s,"output":%s,"error":null,"attempt":%s,"started_at":%s,'
    '"ordinal":%d}'
)
_SUCCESS = 1


class ResultText:
    """Of one answer. `view`: the shape of a result, for those that failed: they are few, and need more looking after."""

    def __init__(self, view: Callable[[Result], dict[str, Any]]) -> None:
        self._view = view
        # The last ones: a lease, and a flush, have one for all their items.
        self._started: tuple[datetime | None, str] = (None, "null")
        self._processed: tuple[datetime | None, str] = (None, "null")

    def of(self, row: Row) -> str:
        """As `dumps(view(…))`."""
        if row["code"] is not None:
            return dumps(self._view(result_of(row))).decode()
        if (started := row["started_at"]) != self._started[0]:
            self._started = (started, _text(started))
        if (processed := row["processed_at"]) != self._processed[0]:
            self._processed = (processed, _text(processed))
        history_id = row["history_id"]
        return _SHAPE % (
            _text(row["custom_id"]),
            _status(row),
            _text(row["content"]),
            _spliced(row["usage"]),
            _spliced(row["given_history_id"] if history_id is None else history_id),
            _spliced(row["conversation_id"]),
            self._processed[1],
            _spliced(row["output"]),
            _spliced(row["attempt"]),
            self._started[1],
            row["ordinal"],
        )


def _status(row: Row) -> str:
    if row["status"] == _SUCCESS:
        return "success"
    return ItemStatus.PROCESSING.value if row["processing"] else ItemStatus.PENDING.value


def _text(value: str | datetime | None) -> str:
    return "null" if value is None else dumps(value).decode()


def _spliced(value: str | int | None) -> str | int:
    return "null" if value is None else value
