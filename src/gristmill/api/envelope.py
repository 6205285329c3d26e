"""The one shape of an answer: `{"data", "message", "error_code"}`, lists with `pagination`. Written by orjson."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from starlette.responses import Response

_OPTIONS = orjson.OPT_UTC_Z


def dumps(value: Any) -> bytes:
    """JSON; instants as ISO 8601 in UTC with a Z. `orjson.Fragment` splices text that is JSON already."""
    return orjson.dumps(value, _plain, _OPTIONS)


def _plain(value: Any) -> str:
    """The database driver has a UUID class of its own."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")


def answer(data: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(enveloped(data), status, headers, media_type="application/json")


def enveloped(data: Any) -> bytes:
    """The body of an answer."""
    return dumps({"data": data, "message": None, "error_code": 0})


def listing(records: Sequence[Any], pagination: Mapping[str, Any]) -> Response:
    return as_json({"data": records, "pagination": pagination, "message": None, "error_code": 0})


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dumps(value), status, headers, media_type="application/json")


def fragment(text: str | None) -> orjson.Fragment | None:
    """JSON text from the database, to be spliced into an answer as it is."""
    return None if text is None else orjson.Fragment(text)
