"""The one place where an error becomes a status code and a body."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gristmill import db, metrics
from gristmill.api.envelope import as_json
from gristmill.domain import errors
from gristmill.domain.errors import Invalid, Problem, ServiceError
from gristmill.storage.base import StorageFailed

logger = logging.getLogger(__name__)

STATUS: dict[type[ServiceError], int] = {
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.RequestTimeout: 408,
    errors.Conflict: 409,
    errors.InFlight: 409,
    errors.Gone: 410,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.KeyReused: 422,
    errors.TooMany: 429,
    errors.Unavailable: 503,
}
_HEADERS: dict[type[ServiceError], Mapping[str, str]] = {
    errors.Unauthenticated: {"WWW-Authenticate": 'Bearer realm="gristmill"'},
    errors.RequestTimeout: {"Connection": "close"},
    errors.InFlight: {"Retry-After": "1"},
    errors.Unavailable: {"Retry-After": "5"},
}
# What Starlette itself refuses, in our words.
_CODES = {404: "not_found", 405: "method_not_allowed"}
_DETAILS = {404: "no such route", 405: "the route does not know this method"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said to a request that was refused, before it takes a shape."""

    status: int
    code: str
    title: str
    detail: str
    problems: Sequence[Problem] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None
    about: Mapping[str, Any] | None = None  # what is still known of what is gone


Shape = Callable[[Refusal], Response]


def install(app: FastAPI) -> None:
    app.state.shapes = []
    app.add_exception_handler(ServiceError, _handle)
    app.add_exception_handler(HTTPException, _handle)
    app.add_exception_handler(RequestValidationError, _handle)


def shape(app: FastAPI, paths: re.Pattern[str], made: Shape) -> None:
    """Refusals under these paths look like this; `made` never raises."""
    app.state.shapes.append((paths, made))


async def _handle(request: Request, error: Exception) -> Response:
    return response(request.scope, error)


def response(scope: Scope, error: Exception) -> Response:
    """The answer to a request that ended with this error. Only what nobody foresaw is a 500, and says nothing."""
    if isinstance(error, ServiceError):
        return _service_error(scope, error)
    if isinstance(error, HTTPException):
        return _http_error(scope, error)
    if isinstance(error, RequestValidationError):
        return _service_error(scope, Invalid([Problem("", "invalid_request", "the request is not valid")]))
    if isinstance(error, StorageFailed):
        logger.warning("storage unavailable: %s", error)
        return _service_error(
            scope,
            errors.Unavailable("the file storage cannot be used; try again soon", code="storage_unavailable"),
        )
    if db.unavailable(error):
        metrics.database_unavailable()
        logger.warning("database unavailable: %s", type(error).__name__)
        return _service_error(scope, _away(error))
    if db.unstorable(error):
        logger.warning("a value reached the database that it cannot hold: %s", type(error).__name__)
        return _service_error(scope, Invalid([Problem("", "unstorable_value", "a value cannot be stored")]))
    logger.exception("unhandled error", exc_info=error)
    return _body(
        scope, 500, "internal_error", "Internal error", "internal error; the log has it under request_id"
    )


def _away(error: Exception) -> errors.Unavailable:
    if db.full(error):
        detail = "the database has no room for it: what is there can be read; try again later"
        return errors.Unavailable(detail, code="storage_full")
    return errors.Unavailable("the database cannot be reached; try again soon")


def _service_error(scope: Scope, error: ServiceError) -> Response:
    problems = error.problems if isinstance(error, Invalid) else []
    status = STATUS[type(error)]
    headers = _HEADERS.get(type(error))
    if isinstance(error, errors.TooMany):
        headers = {"Retry-After": str(error.retry_after_seconds)}
    about = error.about if isinstance(error, errors.Gone) else None
    return _body(scope, status, error.code, error.title, error.detail, problems, headers, about)


def _http_error(scope: Scope, error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, "http_error")
    title = HTTPStatus(error.status_code).phrase
    detail = _DETAILS.get(error.status_code, title)
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(scope["app"].state.routes.methods(scope["path"]))}
    return _body(scope, error.status_code, code, title, detail, headers=headers)


def _body(
    scope: Scope,
    status: int,
    code: str,
    title: str,
    detail: str,
    problems: Sequence[Problem] = (),
    headers: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Response:
    refusal = Refusal(status, code, title, detail, problems, headers or {}, scope.get("request_id"), about)
    return _shape(scope)(refusal)


def _shape(scope: Scope) -> Shape:
    shapes = scope["app"].state.shapes if "app" in scope else ()
    for paths, made in shapes:
        if paths.match(scope["path"]):
            found: Shape = made
            return found
    return canonical


def canonical(refusal: Refusal) -> Response:
    """The envelope with the members of RFC 9457 inside `error`."""
    error: dict[str, Any] = {
        "type": f"urn:gristmill:error:{refusal.code}",
        "code": refusal.code,
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "request_id": refusal.request_id,
        "errors": [
            {"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in refusal.problems
        ],
    }
    if refusal.about is not None:
        error["batch"] = refusal.about
    body = {"data": None, "message": refusal.detail, "error_code": refusal.status, "error": error}
    return as_json(body, refusal.status, refusal.headers)
