"""What went wrong with a call to the model's endpoint, and what follows from it. Pure: no I/O, no clock.

Three kinds (docs/processors.md):
* permanent: 4xx except 408, 409 and 429. Another attempt would fail the same way.
* waiting: 429, 503, and everything that failed before the request reached the endpoint. Nothing is wrong with
  the item, so it uses up no attempt.
* counted: all the rest. Another attempt may work, and each one counts.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.domain.usage import Usage
from gristmill.upstream.retry_after import retry_after

_EXCERPT_CHARACTERS = 300
_READ_CHARACTERS = 4000
_CHECK_URL = "Check GRISTMILL_LLM_BASE_URL: it is the part before /chat/completions, such as https://api.openai.com/v1."
_QUOTA_DELAY_SECONDS = 60.0


class UpstreamError(Exception):
    """A call that gave no usable answer. `waiting`, `delay_seconds` and `outage` are those of `outcomes.Retry`."""

    def __init__(
        self,
        error: ItemError,
        *,
        waiting: bool = False,
        delay_seconds: float | None = None,
        outage: bool = False,
    ) -> None:
        super().__init__(f"{error.type}: {error.message}")
        self.error = error
        self.waiting = waiting
        self.delay_seconds = delay_seconds
        self.outage = outage

    def outcome(self, usage: Usage | None = None) -> Failure | Retry:
        """What the item that made the call ends with; `usage` is what its earlier calls have cost."""
        if not self.error.retryable:
            return Failure(self.error, usage)
        return Retry(self.error, self.delay_seconds, self.waiting, usage, self.outage)


class _Rule(NamedTuple):
    type: str
    message: str
    suggestion: str | None = None


_PERMANENT = {
    400: _Rule("upstream_rejected", "refused the request", "Check the message and the agent's parameters."),
    401: _Rule("upstream_unauthorized", "refused the credentials", "Check GRISTMILL_LLM_API_KEY."),
    402: _Rule("upstream_payment_required", "wants payment", "Check the account's balance at the provider."),
    403: _Rule("upstream_unauthorized", "forbids this", "Check what GRISTMILL_LLM_API_KEY is allowed to do."),
    404: _Rule("upstream_not_found", "knows no such model or path", f"Check the model's name. {_CHECK_URL}"),
    405: _Rule("upstream_not_found", "does not offer this call", _CHECK_URL),
    413: _Rule(
        "upstream_too_long", "finds the request too large", "Shorten the message, its files or the chat."
    ),
    422: _Rule("upstream_rejected", "refused the request", "Check the message and the agent's parameters."),
}
_OTHER_4XX = _Rule("upstream_rejected", "refused the request")
_TOO_LONG = _Rule(
    "upstream_too_long",
    "finds the request longer than the model's context",
    "Shorten the message, its files or the chat, or choose a model with a longer context.",
)
_CONTEXT = re.compile(
    r"(?i)context.{0,20}(length|window|size)|(exceed|maximum|too long).{0,40}context|prompt is too long"
)
_COUNTED = {
    408: _Rule("upstream_timeout", "did not finish in time"),
    409: _Rule("upstream_conflict", "reports a conflict"),
    504: _Rule("upstream_timeout", "did not finish in time"),
    529: _Rule("upstream_overloaded", "is overloaded"),
}
_OTHER_5XX = _Rule("upstream_error", "had an error of its own")
_WAITING = {
    429: _Rule(
        "upstream_rate_limited",
        "limits the rate of calls",
        "Lower GRISTMILL_LLM_CONCURRENCY if this persists.",
    ),
    503: _Rule("upstream_unavailable", "has no capacity right now"),
}
_QUOTA = _Rule(
    "upstream_quota_exhausted", "reports an exhausted quota", "Check the account's quota at the provider."
)
_REDIRECT = _Rule("upstream_redirect", "redirects elsewhere, which is not followed", _CHECK_URL)


def of_status(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, secret: str | None
) -> UpstreamError:
    """An answer other than 2xx. `now` is in Unix seconds; `secret` is kept out of the message."""
    told, code = provider_words(body)
    delay = retry_after(headers, now)
    if status == 429 and code == "insufficient_quota":
        return _error(_QUOTA, status, told, secret, waiting=True, delay=delay or _QUOTA_DELAY_SECONDS)
    if status in _WAITING:
        return _error(_WAITING[status], status, told, secret, waiting=True, delay=delay)
    if status >= 500 or status in _COUNTED:
        return _error(_COUNTED.get(status, _OTHER_5XX), status, told, secret, delay=delay)
    if status >= 400:
        return _permanent(status, told, code, secret)
    return _error(_REDIRECT, status, "", secret, delay=delay)


def _permanent(status: int, told: str, code: str, secret: str | None) -> UpstreamError:
    if status == 400 and _CONTEXT.search(f"{code} {told}"):
        return _error(_TOO_LONG, status, told, secret, retryable=False)
    # What is said about credentials may quote them.
    words = "" if status in (401, 403) else told
    return _error(_PERMANENT.get(status, _OTHER_4XX), status, words, secret, retryable=False)


def _error(
    rule: _Rule,
    status: int,
    told: str,
    secret: str | None,
    *,
    retryable: bool = True,
    waiting: bool = False,
    delay: float | None = None,
) -> UpstreamError:
    message = f"The model's endpoint {rule.message} (HTTP {status})" + (
        f": {masked(told, secret)}" if told else "."
    )
    error = ItemError(
        500, rule.type, message, upstream_status=status, retryable=retryable, suggestion=rule.suggestion
    )
    return UpstreamError(error, waiting=waiting, delay_seconds=delay, outage=may_be_an_outage(status))


def may_be_an_outage(status: int) -> bool:
    """Whether an answer with this status may come of how the other side is, and not of what it was asked."""
    return status >= 500 or status in (408, 429)


HELD_OFF = "It was not called: it is down, or has asked to be left alone for a while."


def held_off() -> UpstreamError:
    """The circuit is open (upstream/circuit.py)."""
    error = ItemError(500, "upstream_unavailable", f"The model's endpoint: {HELD_OFF}", retryable=True)
    return UpstreamError(error, waiting=True, outage=True)


CROWDED = "It was not called: as many calls as a limit of this service allows were going on all the time."
CROWDED_SECONDS = 5.0  # until the item asks again


def crowded_delay(seconds: float | None) -> float:
    """None: as usual."""
    return CROWDED_SECONDS if seconds is None else seconds


def crowded(seconds: float | None = None) -> UpstreamError:
    """No permit came free (upstream/permits.py). `seconds`: until the item asks again."""
    error = ItemError(500, "upstream_limit_reached", f"The model's endpoint: {CROWDED}", retryable=True)
    return UpstreamError(error, waiting=True, delay_seconds=crowded_delay(seconds))


def tell_of_own_key(error: UpstreamError) -> None:
    """What to check is another key where the batch brought its own."""
    if error.error.upstream_status in (401, 402, 403) or error.error.type == "upstream_quota_exhausted":
        suggestion = (
            "Check the upstream.api_key that the batch was made with, and its account at the provider."
        )
        error.error = replace(error.error, suggestion=suggestion)


def unreachable(why: str) -> UpstreamError:
    """The request never got there: name unknown, connection refused, TLS refused, no answer to connecting."""
    error = ItemError(
        500,
        "upstream_unavailable",
        f"The model's endpoint cannot be reached: {why}.",
        retryable=True,
        suggestion="Check GRISTMILL_LLM_BASE_URL and that the endpoint is up.",
    )
    return UpstreamError(error, waiting=True, outage=True)


def timed_out(seconds: float, what: str = "did not answer") -> UpstreamError:
    message = f"The model's endpoint {what} within {seconds:g} seconds."
    suggestion = "Raise GRISTMILL_LLM_TIMEOUT_SECONDS if answers take longer."
    error = ItemError(500, "upstream_timeout", message, retryable=True, suggestion=suggestion)
    return UpstreamError(error, outage=True)


def connection_lost() -> UpstreamError:
    message = "The connection to the model's endpoint broke before the whole answer had come."
    return UpstreamError(ItemError(500, "upstream_connection_lost", message, retryable=True), outage=True)


def too_large(max_bytes: int) -> UpstreamError:
    message = f"The model's endpoint answered with more than {max_bytes} bytes."
    return UpstreamError(ItemError(500, "upstream_answer_too_large", message, retryable=True))


def bad_answer(why: str, status: int = 200, suggestion: str | None = None) -> UpstreamError:
    """A success by its status that is none by its body."""
    message = f"The model's endpoint answered HTTP {status}, but {why}."
    error = ItemError(
        500, "upstream_bad_answer", message, upstream_status=status, retryable=True, suggestion=suggestion
    )
    return UpstreamError(error)


def not_json(status: int, media_type: str) -> UpstreamError:
    if "html" in media_type:
        return bad_answer("with a web page instead of JSON", status, _CHECK_URL)
    return bad_answer("its body is not JSON", status)


def provider_words(body: bytes) -> tuple[str, str]:
    """The provider's message and error code, from the usual shape `{"error": {"message", "code"}}`."""
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", ""
    error = found.get("error", found) if isinstance(found, dict) else None
    if isinstance(error, str):
        return error, ""
    if not isinstance(error, dict):
        return "", ""
    return _first_text(error, "message", "detail") or _places(error), _first_text(error, "code", "type")


def _first_text(found: dict[str, Any], *keys: str) -> str:
    return next((value for key in keys if isinstance(value := found.get(key), str)), "")


def _places(found: dict[str, Any]) -> str:
    """From what FastAPI says, `{"detail": [{"loc": ["body", "tools"], "msg": "…"}]}`."""
    details = found.get("detail")
    said = [one for one in details[:5] if isinstance(one, dict)] if isinstance(details, list) else []
    return "; ".join(f"{'.'.join(map(str, _list(one.get('loc'))))}: {one.get('msg')}" for one in said)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


_KEY_LIKE = re.compile(r"(?i)\b(?:bearer\s+\S+|(?:sk|gm|key|pk|gsk|xai)[-_][\w*.-]{6,})")


def masked(words: str, *secrets: str | None) -> str:
    """The provider's words, one line, bounded, and without anything that looks like a key."""
    for secret in filter(None, secrets):
        words = words.replace(secret, "***")
    spaced = "".join(character if character.isprintable() else " " for character in words[:_READ_CHARACTERS])
    line = " ".join(_KEY_LIKE.sub("***", spaced).split())
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"
