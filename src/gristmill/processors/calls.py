"""A signed POST to a URL that a batch's configuration names, and what follows from its answer.

Permanent: 3xx, which are not followed, and 4xx but 408, 409 and 429. Waiting: 429, and 503 with `Retry-After`: the other
side has no capacity, which is no fault of the item. Counted: all the rest, and no answer at all. Whatever kept a call from
arriving looks the same, so that nobody can map a network by what follows. Where many calls in a row fail as in an outage, the
circuit opens (upstream/circuit.py), and what counted before does not.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.domain.retry import RetryPolicy
from gristmill.net import signing
from gristmill.net.retry_after import retry_after_seconds
from gristmill.net.session import CallFailed, HttpSession, Response
from gristmill.processors.refusals import Refused
from gristmill.upstream.circuit import Call, Circuit, HeldOff
from gristmill.upstream.errors import (
    CROWDED,
    HELD_OFF,
    crowded_delay,
    masked,
    may_be_an_outage,
    provider_words,
)
from gristmill.upstream.permits import Crowded, Permit

POLICY = RetryPolicy(base_seconds=5.0)
BUSY_SECONDS = 30.0  # to wait when the other side has no capacity and does not say for how long
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
_SPREAD = 0.1  # never earlier, and up to so much later: not all at once

_COUNTED = frozenset({408, 409})
_SHORT_OF_MASKING = 8  # a shorter secret would turn words into asterisks


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`word` begins the types of its errors (`sink_refused`), `name` the messages. Secrets in clear: never logged."""

    word: str
    name: str
    url: str = field(repr=False)  # its path may be a secret
    secret: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Message:
    """`identifier` (webhook-id) and `idempotency_key` are the same whenever it is sent."""

    identifier: str
    idempotency_key: str
    body: bytes


def in_clear(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def all_in_clear(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in headers.items()}


async def post(
    http: HttpSession,
    endpoint: Endpoint,
    message: Message,
    *,
    max_bytes: int,
    partial: bool = False,
    circuit: Circuit | None = None,
) -> Response:
    """The answer, if it is a 2xx. `max_bytes` and `partial`: as in `HttpSession.request`. Raises Refused, also while the
    circuit is open, or where a limit of the service leaves no room for long."""
    try:
        call = Call(circuit)
        call.check()
        async with Permit(None if circuit is None else circuit.permits):
            with call:
                return await _post(http, endpoint, message, max_bytes, partial, call)
    except HeldOff:
        error = ItemError(500, f"{endpoint.word}_unreachable", f"{endpoint.name}: {HELD_OFF}", retryable=True)
        raise Refused(Retry(error, waiting=True, outage=True)) from None
    except Crowded as crowded:
        error = ItemError(
            500, f"{endpoint.word}_limit_reached", f"{endpoint.name}: {CROWDED}", retryable=True
        )
        raise Refused(Retry(error, crowded_delay(crowded.delay_seconds), waiting=True)) from None


async def _post(
    http: HttpSession, endpoint: Endpoint, message: Message, max_bytes: int, partial: bool, call: Call
) -> Response:
    signed = signing.headers(endpoint.secret, message.identifier, int(time.time()), message.body)
    ours = {"Content-Type": "application/json", "Idempotency-Key": message.idempotency_key, **signed}
    try:
        response = await http.request(
            "POST",
            endpoint.url,
            headers={**endpoint.headers, **ours},
            body=message.body,
            timeout_seconds=endpoint.timeout_seconds,
            max_bytes=max_bytes,
            partial=partial,
        )
    except CallFailed as failed:
        outcome = _no_answer(endpoint, failed)
        if outcome.outage:
            call.failed("down")
        else:
            call.answered()
        raise Refused(outcome) from None
    if 200 <= response.status < 300:
        call.answered()
        return response
    refusal = _refusal(endpoint, response, time.time())
    _report(call, refusal, response)
    raise Refused(refusal)


def _report(call: Call, refusal: Failure | Retry, response: Response) -> None:
    if not isinstance(refusal, Retry) or not refusal.outage:
        call.answered()
        return
    asked = retry_after_seconds(response.headers, time.time())
    throttled = refusal.waiting or response.status == 429
    hold = refusal.delay_seconds if throttled and asked else None
    call.failed("throttled" if throttled else "down", hold, waits=refusal.waiting)


def _no_answer(endpoint: Endpoint, failed: CallFailed) -> Retry:
    kind, what = {
        "unreachable": ("unreachable", "cannot be reached, or does not answer in time"),
        "tls": ("unreachable", "cannot be reached by TLS"),
        "too_large": ("answer_too_large", "answers with more than is read"),
    }.get(failed.shown, ("connection_lost", "broke the connection before the whole answer had come"))
    message = f"{endpoint.name} {what}."
    suggestion = "Check that its URL is public and that it is up."
    error = ItemError(500, f"{endpoint.word}_{kind}", message, retryable=True, suggestion=suggestion)
    return Retry(error, outage=kind != "answer_too_large")


def _refusal(endpoint: Endpoint, response: Response, now: float) -> Failure | Retry:
    status, asked = response.status, retry_after_seconds(response.headers, now)
    if status == 429 or (status == 503 and asked is not None):
        error = _error(endpoint, response, "busy", "has no capacity right now", retryable=True)
        return Retry(error, _later(asked or BUSY_SECONDS), waiting=True, outage=True)
    if status >= 500 or status in _COUNTED:
        error = _error(endpoint, response, "error", "had an error of its own", retryable=True)
        delay = None if asked is None else _later(asked)
        return Retry(error, delay, outage=may_be_an_outage(status))
    if status < 400:
        what, advice = "redirects elsewhere, which is not followed", "Name the URL at which it answers."
    else:
        what, advice = "refused the request", "Check its URL, its credentials, and what it says."
    return Failure(_error(endpoint, response, "refused", what, suggestion=advice))


def _later(seconds: float) -> float:
    spread = random.uniform(1, 1 + _SPREAD)  # noqa: S311 - jitter, not a secret
    return min(seconds, MAX_RETRY_AFTER_SECONDS) * spread


def _error(
    endpoint: Endpoint,
    response: Response,
    kind: str,
    what: str,
    *,
    retryable: bool = False,
    suggestion: str | None = None,
) -> ItemError:
    told = words(endpoint, response)
    return ItemError(
        500,
        f"{endpoint.word}_{kind}",
        f"{endpoint.name} {what} (HTTP {response.status})" + (f": {told}" if told else "."),
        upstream_status=response.status,
        retryable=retryable,
        suggestion=suggestion,
    )


def words(endpoint: Endpoint, response: Response) -> str:
    """What an answer says of itself, in one bounded line without our secrets; nothing about credentials."""
    if response.status in (401, 403):
        return ""
    told, _ = provider_words(response.body)
    return mask(endpoint, told)


def mask(endpoint: Endpoint, told: str) -> str:
    secrets = [endpoint.secret, *endpoint.headers.values()]
    return masked(told, *(secret for secret in secrets if secret and len(secret) >= _SHORT_OF_MASKING))
