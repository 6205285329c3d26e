"""A result as a row: of values for an INSERT, of bytes for a COPY.

In Postgres' binary form no field is looked through for what would have to be escaped, and neither a UUID nor a time is spelled
out and read again for each row: 0.3 µs less of Postgres' CPU for a result than as text, and 0.2 µs less of the worker's.
"""

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from gristmill.domain.states import ResultStatus

if TYPE_CHECKING:
    from gristmill.store.recording import Ended

# With their types. First what neighbours have in common.
COLUMNS = {
    "batch_id": "uuid",
    "started_at": "timestamptz",
    "attempt": "smallint",
    "status": "smallint",
    "code": "smallint",
    "history_id": "bigint",
    "conversation_id": "bigint",
    "ordinal": "int",
    "content": "text",
    "output": "text",
    "error": "text",
    "usage": "text",
}


def values(e: "Ended") -> tuple[Any, ...]:
    """In the order of the columns."""
    return (
        e.batch_id,
        e.started_at,
        e.attempt,
        e.status,
        e.code,
        e.history_id,
        e.conversation_id,
        e.ordinal,
        e.content,
        e.output,
        e.error,
        e.usage,
    )


# Each field is its length and its bytes; NULL is the length -1.
_NULL = struct.pack(">i", -1)
_NO_MORE = _NULL + _NULL  # neither error nor usage
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_length = struct.Struct(">i").pack
_ordinal = struct.Struct(">ii").pack
_only_output = struct.Struct(">iiii").pack  # the ordinal, no content, how long the output is
_head = struct.Struct(">hi16s").pack
_small = struct.Struct(">ih").pack
_big = struct.Struct(">iq").pack


def packed(ended: Sequence["Ended"]) -> Iterator[bytes]:
    """A row each. Most are successes with an output and nothing else: what these have in common is packed once for neighbours of
    one batch.

    Raises UnicodeEncodeError for a lone surrogate, struct.error for a number that does not fit.
    """
    batch_id: UUID | None = None
    started_at: datetime | None = None
    attempt = 0
    shared = plain = b""
    for e in ended:
        if e.batch_id is not batch_id or e.started_at is not started_at or e.attempt != attempt:
            batch_id, started_at, attempt = e.batch_id, e.started_at, e.attempt
            shared = _shared(batch_id, started_at, attempt)
            plain = shared + _facts(ResultStatus.SUCCESS, None, None, None)
        if (
            e.code is not None
            or e.usage is not None
            or e.history_id is not None
            or e.conversation_id is not None
        ):
            facts = _facts(e.status, e.code, e.history_id, e.conversation_id)
            yield shared + facts + _ordinal(4, e.ordinal) + _texts(e)
        elif e.content is not None or e.output is None or e.error is not None:
            yield plain + _ordinal(4, e.ordinal) + _texts(e)
        else:
            output = e.output.encode()
            yield plain + _only_output(4, e.ordinal, -1, len(output)) + output + _NO_MORE


def _shared(batch_id: UUID, started_at: datetime | None, attempt: int) -> bytes:
    time = _NULL if started_at is None else _big(8, (started_at - _EPOCH) // _MICROSECOND)
    return _head(len(COLUMNS), 16, batch_id.bytes) + time + _small(2, attempt)


def _facts(status: int, code: int | None, history_id: int | None, conversation_id: int | None) -> bytes:
    chat = (_NULL if number is None else _big(8, number) for number in (history_id, conversation_id))
    return _small(2, status) + (_NULL if code is None else _small(2, code)) + b"".join(chat)


def _texts(e: "Ended") -> bytes:
    texts = (None if text is None else text.encode() for text in (e.content, e.output, e.error, e.usage))
    return b"".join(_NULL if text is None else _length(len(text)) + text for text in texts)
