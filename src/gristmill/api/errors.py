"""The one place where an error becomes a status code and a body."""

import logging
from collections.abc import Mapping
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


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _handle)
    app.add_exception_handler(HTTPException, _handle)
    app.add_exception_handler(RequestValidationError, _handle)


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
        return _service_error(scope, errors.Unavailable("the database cannot be reached; try again soon"))
    if db.unstorable(error):
        logger.warning("a value reached the database that it cannot hold: %s", type(error).__name__)
        return _service_error(scope, Invalid([Problem("", "unstorable_value", "a value cannot be stored")]))
    logger.exception("unhandled error", exc_info=error)
    return _body(
        scope, 500, "internal_error", "Internal error", "internal error; the log has it under request_id"
    )


def _service_error(scope: Scope, error: ServiceError) -> Response:
    problems = error.problems if isinstance(error, Invalid) else []
    status = STATUS[type(error)]
    headers = _HEADERS.get(type(error))
    if isinstance(error, errors.TooMany):
        headers = {"Retry-After": str(error.retry_after_seconds)}
    return _body(scope, status, error.code, error.title, error.detail, problems, headers)


def _http_error(scope: Scope, error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, "http_error")
    title = HTTPStatus(error.status_code).phrase
    detail = _DETAILS.get(error.status_code, title)
    return _body(scope, error.status_code, code, title, detail, headers=error.headers)


def _body(
    scope: Scope,
    status: int,
    code: str,
    title: str,
    detail: str,
    problems: list[Problem] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The envelope with the members of RFC 9457 inside `error`."""
    error: dict[str, Any] = {
        "type": f"urn:gristmill:error:{code}",
        "code": code,
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": scope.get("request_id"),
        "errors": [
            {"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in problems or ()
        ],
    }
    return as_json({"data": None, "message": detail, "error_code": status, "error": error}, status, headers)
