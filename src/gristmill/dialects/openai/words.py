"""Names, instants and states as OpenAI writes them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from gristmill.domain.states import BatchStatus, Ending
from gristmill.store.batches import Batch

NAME = "openai"
BATCH, FILE = "batch_", "file-"
BAD_SOURCE, DEADLINE = "bad_source", "deadline_exceeded"
_PARAMS = {"source.file_id": "input_file_id", "deadline_seconds": "completion_window", "file": "file"}
# What the reading of a file says of a line, in OpenAI's words where there is one.
_LINE_CODES = {
    "invalid_json": "invalid_json_line",
    "empty_body": "invalid_json_line",
    "invalid_type": "invalid_json_line",
    "invalid_utf8": "invalid_json_line",
    "byte_order_mark": "invalid_json_line",
    "lone_surrogate": "invalid_json_line",
    "missing": "missing_required_parameter",
}


def unix(instant: datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp())


def why(batch: Batch) -> str | None:
    """The type of the error that a batch as a whole ended with."""
    return None if batch.error is None else orjson.loads(batch.error).get("type")


def status(batch: Batch) -> str:
    """One of the eight. A paused batch is in progress; one whose deadline has passed only waits for what is in flight."""
    match batch.status:
        case BatchStatus.COMPLETED | BatchStatus.CANCELLED | BatchStatus.CANCELLING:
            return batch.status.value
        case BatchStatus.FAILED:
            return "expired" if why(batch) == DEADLINE else "failed"
    if batch.ingesting:
        return "validating"
    return "finalizing" if batch.ending is Ending.DEADLINE else "in_progress"


def errors(batch: Batch) -> dict[str, Any] | None:
    """What was wrong with the input file, line by line, or why the batch failed otherwise."""
    if batch.error is None or status(batch) != "failed":
        return None
    error = orjson.loads(batch.error)
    lines = sorted(map(_line_error, error.get("errors", ())), key=lambda one: one["line"] or 0)
    whole = {"code": error["type"], "line": None, "message": error["message"], "param": None}
    return {"object": "list", "data": lines or [whole]}


def _line_error(one: Mapping[str, str]) -> dict[str, Any]:
    kind, line, *rest = [*one["pointer"].split("/")[1:], ""]
    if kind != "lines":
        return {"code": one["code"], "line": None, "message": one["detail"], "param": param(one["pointer"])}
    inside = ".".join(rest[:-1])
    if inside == "input" or inside.startswith("input."):
        inside = "body" + inside.removeprefix("input")
    code = _LINE_CODES.get(one["code"], one["code"])
    return {"code": code, "line": int(line), "message": one["detail"], "param": inside or None}


def param(pointer: str) -> str | None:
    """A field of the request as OpenAI names them, from our pointer to what it became."""
    name = pointer.strip("/").replace("/", ".")
    return _PARAMS.get(name, name) or None
