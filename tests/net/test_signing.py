"""One delivery, every verifier: the bytes and headers go through each library as a receiver would use it.

Seed 004, rules 30 and 31.
"""

import base64
import hashlib
import hmac
import time

import openai
import pytest
import standardwebhooks
import svix.webhooks

from gristmill.net import signing

IDENTIFIER = "evt_0123456789abcdef0123456789abcdef"
BODY = (
    '{"id":"evt_0123456789abcdef0123456789abcdef","object":"event","type":"batch.completed",'
    '"created_at":1795344300,"event":"batch.completed","timestamp":"2026-11-22T10:45:00.000Z",'
    '"data":{"id":"550e8400-e29b-41d4-a716-446655440000","status":"completed","total_requests":100,'
    '"completed_requests":98,"failed_requests":2,"name":"naïve 🚀"}}'
).encode()
RANDOM = base64.b64encode(bytes(range(200, 232))).decode()
SECRETS = {
    "whsec": f"whsec_{RANDOM}",
    "whsec without padding": f"whsec_{RANDOM.rstrip('=')}",
    "plain": "your-webhook-secret",
    "plain UTF-8": "sécret-🔑",
    "plain that looks like base64": RANDOM,
    "255 characters": "k" * 255,
    "whsec that is no base64": "whsec_not base64!",
    "whsec of nothing": "whsec_",
}


def verify_webhook(payload: bytes, signature: str, timestamp: str, secret: str) -> bool:
    """Word for word as seed 004 gives it to receivers."""
    signed_payload = f"{timestamp}.".encode() + payload
    expected = hmac.new(secret.encode("utf-8"), signed_payload, hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)


def signed(secret, at=None):
    return signing.headers(secret, IDENTIFIER, int(time.time() if at is None else at), BODY)


def derived(secret):
    """The form of any secret that every library takes."""
    return "whsec_" + base64.b64encode(signing.standard_key(secret)).decode()


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_the_seeds_own_verifier_accepts_every_secret(secret):
    headers = signed(secret)
    assert verify_webhook(BODY, headers["X-Codeer-Signature"], headers["X-Codeer-Timestamp"], secret)
    assert not verify_webhook(
        BODY, headers["X-Codeer-Signature"], headers["X-Codeer-Timestamp"], secret + "x"
    )


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("library", [standardwebhooks.Webhook, svix.webhooks.Webhook])
def test_standardwebhooks_and_svix_accept_the_derived_form_of_every_secret(library, secret):
    library(derived(secret)).verify(BODY, signed(secret))  # raises otherwise


@pytest.mark.parametrize("name", ["whsec", "whsec without padding"])
@pytest.mark.parametrize("library", [standardwebhooks.Webhook, svix.webhooks.Webhook])
def test_they_accept_a_whsec_secret_as_it_is(library, name):
    library(SECRETS[name]).verify(BODY, signed(SECRETS[name]))


@pytest.mark.parametrize("name", ["plain", "plain UTF-8", "plain that looks like base64", "255 characters"])
def test_standardwebhooks_accepts_a_plain_secret_as_bytes(name):
    standardwebhooks.Webhook(SECRETS[name].encode()).verify(BODY, signed(SECRETS[name]))


@pytest.mark.parametrize(
    "name", ["whsec", "plain", "plain UTF-8", "plain that looks like base64", "255 characters"]
)
def test_openai_unwraps_the_same_delivery_as_its_own_event(name):
    client = openai.OpenAI(api_key="unused", webhook_secret=SECRETS[name])
    event = client.webhooks.unwrap(BODY, signed(SECRETS[name]))
    assert type(event).__name__ == "BatchCompletedWebhookEvent"
    assert (event.id, event.data.id) == (IDENTIFIER, "550e8400-e29b-41d4-a716-446655440000")


@pytest.mark.parametrize("library", [standardwebhooks.Webhook, svix.webhooks.Webhook])
def test_a_changed_body_an_old_timestamp_and_another_secret_are_refused(library):
    secret = SECRETS["whsec"]
    verifier = library(secret)
    for body, headers in [
        (BODY + b" ", signed(secret)),
        (BODY, signed(secret, time.time() - 301)),
        (BODY, signed(secret, time.time() + 302)),
        (BODY, signed(SECRETS["plain"])),
        (BODY, signed(secret) | {"webhook-id": "evt_other"}),
    ]:
        with pytest.raises(Exception, match=r"(?i)signature|timestamp"):
            verifier.verify(body, headers)


def test_without_a_secret_there_is_no_signature_but_the_id_and_the_timestamps():
    assert signing.headers(None, IDENTIFIER, 1795344300, BODY) == {
        "webhook-id": IDENTIFIER,
        "webhook-timestamp": "1795344300",
        "X-Codeer-Timestamp": "1795344300",
    }


def test_an_empty_secret_is_a_secret():
    assert "X-Codeer-Signature" in signing.headers("", IDENTIFIER, 1795344300, BODY)


def test_signatures_are_what_an_independent_reading_of_both_specifications_gives():
    key = bytes(range(200, 232))
    headers = signing.headers(SECRETS["whsec"], "evt_1", 1795344300, b"{}")
    standard = hmac.new(key, b"evt_1.1795344300.{}", hashlib.sha256).digest()
    codeer = hmac.new(SECRETS["whsec"].encode(), b"1795344300.{}", hashlib.sha256).hexdigest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(standard).decode()
    assert headers["X-Codeer-Signature"] == f"sha256={codeer}"
