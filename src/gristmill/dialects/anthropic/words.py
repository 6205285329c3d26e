"""Names and states as Anthropic writes them."""

from typing import Any

import orjson

from gristmill.domain.states import TERMINAL, BatchStatus, ItemStatus
from gristmill.store.batches import Batch
from gristmill.store.results import Result

NAME = "anthropic"
BATCH = "msgbatch_"
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ENDED_WITHOUT_RUN = {408: "expired", 499: "canceled"}


def error_type(status: int) -> str:
    return _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")


def place(pointer: str) -> str:
    """Where in the request something is wrong: what is `params` there is `input` here."""
    segments = pointer.strip("/").split("/")
    if segments[0] == "requests" and segments[2:3] == ["input"]:
        segments[2] = "params"
    return ".".join(segments) or "request"


def status(batch: Batch) -> str:
    """One of the three. A paused batch is in progress."""
    if batch.status in TERMINAL:
        return "ended"
    return "canceling" if batch.status is BatchStatus.CANCELLING else "in_progress"


def outcome(result: Result) -> dict[str, Any]:
    """What a request ended with: succeeded, errored, canceled or expired."""
    if result.status is ItemStatus.SUCCESS:
        return {"type": "succeeded", "message": orjson.Fragment(result.output or "null")}
    if (ended := _ENDED_WITHOUT_RUN.get(result.code or 0)) is not None:
        return {"type": ended}
    told = orjson.loads(result.error or "{}")
    code = told.get("upstream_status") or result.code or 500
    error = {"type": error_type(code if code >= 400 else 500), "message": told.get("message")}
    return {"type": "errored", "error": {"type": "error", "error": error, "request_id": None}}
