"""Sends one event to one receiver, once, and describes what came of it."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gristmill.domain.deliveries import Attempt
from gristmill.domain.webhooks import DEFAULT_SIGNATURES, Secrets, Signature
from gristmill.net import signing
from gristmill.net.retry_after import retry_after_seconds
from gristmill.net.session import CallFailed, HttpSession, Response

MAX_RESPONSE_BYTES = 64 * 1024  # read, so that the connection can be used again
KEPT_RESPONSE_BYTES = 2 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Post:
    """What to send where. `event_id` and `body` are the same on every attempt. `secrets` in clear: never logged."""

    event_id: str
    body: str
    url: str
    secrets: Secrets = field(default_factory=Secrets)
    signatures: Collection[Signature] = DEFAULT_SIGNATURES

    def __repr__(self) -> str:
        return f"Post({self.event_id!r})"


async def send(http: HttpSession, post: Post, timeout_seconds: float) -> Attempt:
    """One POST within `timeout_seconds`. Whatever the receiver does is a value, never an exception.

    A status line counts even if the body behind it never ends: the receiver has said that it has the event.
    """
    body = post.body.encode()
    secrets, stamp = post.secrets, int(time.time())
    signed = signing.headers(secrets.secret, post.event_id, stamp, body, post.signatures, secrets.former)
    began = time.monotonic()
    try:
        response = await http.request(
            "POST",
            post.url,
            headers={**secrets.headers, "Content-Type": "application/json", **signed},
            body=body,
            timeout_seconds=timeout_seconds,
            max_bytes=MAX_RESPONSE_BYTES,
            partial=True,
        )
    except CallFailed as failed:
        # The log may say more than the tenant may know; the URL stays out of it, its path may be a secret.
        where = urlsplit(post.url).hostname
        log.info("no answer to webhook", extra={"event": post.event_id, "host": where, "kind": failed.kind})
        return Attempt(duration_ms=_since(began), error=failed.shown)
    return _answered(response, _since(began))


def _answered(response: Response, duration_ms: int) -> Attempt:
    return Attempt(
        duration_ms=duration_ms,
        status_code=response.status,
        response=_text(response.body[:KEPT_RESPONSE_BYTES]),
        retry_after_seconds=retry_after_seconds(response.headers, time.time()),
    )


def _text(data: bytes) -> str:
    """Readable and storable: Postgres cannot hold NUL."""
    return data.decode("utf-8", "replace").replace("\x00", "\ufffd")


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
