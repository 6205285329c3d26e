"""Reading an endpoint's answer: bytes to a JSON object that Postgres can hold, or the error it stands for."""

import re
from typing import Any

import orjson

from gristmill.upstream.errors import UpstreamError, bad_answer, not_json, of_status

# A JSON escape that Postgres cannot keep as text: NUL, or half a surrogate pair (of an emoji that was cut).
# Group 1: backslashes escaping each other; group 2: a whole pair, which stays.
_ESCAPES = re.compile(
    rb"(?<!\\)((?:\\\\)*)"
    rb"(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))"
)


def _storable(body: bytes) -> bytes:
    """The body with U+FFFD in the place of every character that no text in Postgres can hold."""
    if b"\\u" not in body:
        return body
    return _ESCAPES.sub(lambda match: match[1] + (match[2] or rb"\ufffd"), body)


def read(status: int, media_type: str, body: bytes, *, now: float, secret: str | None) -> dict[str, Any]:
    """The JSON object of a 2xx answer. Raises UpstreamError if there is none, or it is an error."""
    try:
        found = orjson.loads(_storable(body))
    except orjson.JSONDecodeError:
        raise not_json(status, media_type) from None
    if not isinstance(found, dict):
        raise bad_answer("its body is not a JSON object", status)
    if found.get("error"):
        raise _hidden(found["error"], status, body, now=now, secret=secret)
    return found


def _hidden(error: object, status: int, body: bytes, *, now: float, secret: str | None) -> UpstreamError:
    """Gateways answer 200 and put the status of whoever is behind them into the body."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code <= 599:
        return of_status(code, {}, body, now=now, secret=secret)
    return bad_answer("its body holds an error", status)
