"""Errors a caller can cause. `api/errors.py` is the one place that gives each its HTTP status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: where (a JSON pointer, or the name of a query parameter or header), what, in words."""

    pointer: str
    code: str
    detail: str


class ServiceError(Exception):
    """`code` is for programs and never changes; `detail` is for people and never echoes the input."""

    code = "internal_error"
    title = "Internal error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class Invalid(ServiceError):
    """The request is wrong; `problems` lists all that was found, at most 100."""

    code = "invalid_request"
    title = "The request is not valid"

    def __init__(self, problems: Sequence[Problem], detail: str | None = None) -> None:
        count = len(problems)
        super().__init__(detail or (problems[0].detail if count == 1 else f"{count} problems in the request"))
        self.problems = list(problems[:100])
        if count == 1:
            self.code = problems[0].code


class Unauthenticated(ServiceError):
    code = "unauthenticated"
    title = "No or bad credentials"


class Forbidden(ServiceError):
    code = "forbidden"
    title = "Not allowed"


class NotFound(ServiceError):
    """Unknown, or another tenant's: the two look the same."""

    code = "not_found"
    title = "Not found"


class Gone(ServiceError):
    """It was here, and was kept for as long as it was to be. `about`: what is still known of it."""

    code = "gone"
    title = "No longer kept"

    def __init__(self, detail: str, *, about: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.about = about


class Conflict(ServiceError):
    """The thing is in a state that does not allow this; `detail` names the state."""

    code = "conflict"
    title = "Not possible in this state"


class InFlight(Conflict):
    """The same request is at work at this moment; the caller may ask again soon."""

    code = "idempotency_key_in_flight"


class KeyReused(ServiceError):
    """An Idempotency-Key came again with another request."""

    code = "idempotency_key_reused"
    title = "Another request had this key"


class TooLarge(ServiceError):
    code = "too_large"
    title = "Too large"


class UnsupportedMediaType(ServiceError):
    code = "unsupported_media_type"
    title = "Unsupported media type"


class RequestTimeout(ServiceError):
    code = "request_timeout"
    title = "The request did not arrive in time"


class Unavailable(ServiceError):
    """Postgres cannot be reached, or cannot take more; the caller may try again soon."""

    code = "unavailable"
    title = "Not available right now"
