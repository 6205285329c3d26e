"""Signatures of what we send: Standard Webhooks 1.0.0, the schemes of seeds 004 and 002, any of them on one request."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection

from gristmill.domain.webhooks import DEFAULT_SIGNATURES, Signature

_PREFIX = "whsec_"


def headers(
    secret: str | None,
    identifier: str,
    timestamp: int,
    body: bytes,
    signatures: Collection[Signature] = DEFAULT_SIGNATURES,
    former: str | None = None,
) -> dict[str, str]:
    """The headers of one attempt: `identifier` is the same for all, `timestamp` (Unix seconds) is its own.

    Without a secret nothing is signed; identifier and timestamp are sent all the same. `former`: a secret that has been
    rotated and is still good; Standard Webhooks has a place for several signatures.
    """
    found = {
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "X-Codeer-Timestamp": str(timestamp),
    }
    if secret is None:
        return found
    if Signature.STANDARD in signatures:
        secrets = [one for one in (secret, former) if one is not None]
        found["webhook-signature"] = " ".join(_standard(one, identifier, timestamp, body) for one in secrets)
    if Signature.CODEER in signatures:
        found["X-Codeer-Signature"] = _codeer(secret, timestamp, body)
    if Signature.LLAMACLOUD in signatures:
        found["LC-Signature"] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    return found


def standard_key(secret: str) -> bytes:
    """The key of Standard Webhooks: base64 behind `whsec_`, padded or not; else the secret's own bytes."""
    encoded = secret.removeprefix(_PREFIX)
    if encoded == secret:
        return secret.encode()
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True) or secret.encode()
    except (binascii.Error, ValueError):
        return secret.encode()


def _standard(secret: str, identifier: str, timestamp: int, body: bytes) -> str:
    signed = f"{identifier}.{timestamp}.".encode() + body
    digest = hmac.digest(standard_key(secret), signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _codeer(secret: str, timestamp: int, body: bytes) -> str:
    signed = f"{timestamp}.".encode() + body
    return f"sha256={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"
