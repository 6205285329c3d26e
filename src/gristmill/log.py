"""One line per event, as JSON or text; what others sent cannot begin a line of its own or steer a terminal.

    log = logging.getLogger(__name__)
    with bind(batch_id=batch.id):
        log.info("batch ended", extra={"status": "completed"})

Secrets have no place in a message or a field: nothing here removes them. Of exceptions, only Python's own and ours are
written with their text: those of libraries quote statements' parameters, rows, inputs.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never changed, only replaced
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# Control characters, line and paragraph separators, and marks that reverse the order of what follows.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def configure(format: Literal["text", "json"], level: str) -> None:  # noqa: A002 - the word users know
    """To standard error, in place of what was configured before; of other libraries, warnings and errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("gristmill").setLevel(level.upper())


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Adds fields to every line of this task, and of the tasks it starts, until the end of the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    fields = {**_bound.get(), **extra}
    if record.exc_info:
        fields["exception"] = "\n".join(_trace(record.exc_info[1]))
    return fields


def _trace(error: BaseException | None) -> Iterator[str]:
    """From the first cause to what was caught."""
    if error is None:
        return
    yield from _trace(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _trace(part)
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    kind = type(error)
    told = kind.__module__ == "builtins" or kind.__module__.partition(".")[0] == "gristmill"
    yield f"{kind.__qualname__}: {error}" if told else f"{kind.__module__}.{kind.__qualname__}"


def _at(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def printable(text: str) -> str:
    """The same, with what could end a line or steer a terminal written as an escape."""
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"at": _at(record), "level": record.levelname.lower(), "logger": record.name}
        line = {**_fields(record), **head, "message": record.getMessage()}
        # ASCII only, less DEL: nothing in it can end the line or steer a terminal.
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return printable(f"{_at(record)} {record.levelname.lower():7} {record.getMessage()}{fields}")
