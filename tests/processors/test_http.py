"""An item POSTed to a URL of the caller's, and what each answer, or none, means."""

import base64
import hashlib
import hmac
from dataclasses import replace
from typing import Any

import orjson
import pytest
import standardwebhooks

from fakes.receiver import Behaviour, Receiver, bomb, drip, endless, hang, raw, reset, status
from fakes.world import World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.net.session import HttpSession
from gristmill.processors import get, validate_config
from gristmill.processors.http import strict

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
GIVEN = {"city": "Köln", "numbers": [1, 2.5, None]}


async def post(world: World, receiver: Receiver, *behaviours: Behaviour, **config: Any) -> Outcome:
    if behaviours:
        receiver.behave(*behaviours)
    raw_config = {"url": receiver.url, "timeout_seconds": 1.0} | config
    model, problems = validate_config(get("http"), raw_config, allow_private=True)
    assert problems == []
    return await world.run(get("http"), GIVEN, model)


def answered(value: Any, code: int = 200, **headers: object) -> Behaviour:
    return status(code, orjson.dumps(value), Content_Type="application/json", **headers)


async def test_the_endpoint_gets_the_input_and_its_json_answer_is_the_output(
    world: World, receiver: Receiver
) -> None:
    outcome = await post(world, receiver, answered({"temperature": 21.5, "at": [1, "ä"]}))
    assert outcome == Success({"temperature": 21.5, "at": [1, "ä"]})
    [received] = receiver.received
    assert (received.method, received.path) == ("POST", "/hook")
    assert received.headers["content-type"] == "application/json"
    assert orjson.loads(received.body) == {
        "type": "item",
        "batch_id": "00000000-0000-0000-0000-000000000001",
        "custom_id": "item-3",
        "input": GIVEN,
    }


async def test_each_call_is_signed_as_a_webhook_is(world: World, receiver: Receiver) -> None:
    await post(world, receiver, answered({}), secret=SECRET)
    [received] = receiver.received
    standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)
    signed = f"{received.headers['x-codeer-timestamp']}.".encode() + received.body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert received.headers["x-codeer-signature"] == f"sha256={expected}"


async def test_id_and_bytes_are_the_same_on_every_attempt(world: World, receiver: Receiver) -> None:
    receiver.behave(status(500), answered({}))
    for _ in range(2):
        await post(world, receiver, secret=SECRET)
    first, second = receiver.received
    assert first.body == second.body
    for name in ("webhook-id", "idempotency-key"):
        assert first.headers[name] == second.headers[name]
    assert first.headers["idempotency-key"] == "00000000-0000-0000-0000-000000000001:3"


async def test_without_a_secret_nothing_is_signed_and_headers_go_along(
    world: World, receiver: Receiver
) -> None:
    await post(world, receiver, answered({}), headers={"Authorization": "Bearer of-mine"})
    [received] = receiver.received
    assert received.headers["authorization"] == "Bearer of-mine"
    assert "webhook-id" in received.headers
    assert not {"webhook-signature", "x-codeer-signature"} & received.headers.keys()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([], Success([])),
        (None, Success(None)),
        ("text", Success("text")),
        ({"status": "success"}, Success({"status": "success"})),
        ({"status": "success", "output": 3}, Success(3)),
        ({"status": "success", "output": 3, "content": "three"}, Success(3, "three")),
        (
            {"status": "success", "output": 3, "more": 1},
            Success({"status": "success", "output": 3, "more": 1}),
        ),
        ({"status": "fine", "error": "no"}, Success({"status": "fine", "error": "no"})),
    ],
)
async def test_any_json_is_an_output_unless_its_status_says_more(
    world: World, receiver: Receiver, answer: Any, expected: Success
) -> None:
    assert await post(world, receiver, answered(answer)) == expected


async def test_an_empty_answer_is_a_success_without_output(world: World, receiver: Receiver) -> None:
    assert await post(world, receiver, status(204)) == Success(content="")


async def test_the_endpoint_may_say_that_the_item_failed(world: World, receiver: Receiver) -> None:
    error = {"type": "bad_city", "message": "No\nsuch city.", "suggestion": "Spell it.", "code": 400}
    outcome = await post(world, receiver, answered({"status": "failed", "error": error}))
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type) == (400, "bad_city")
    assert (outcome.error.message, outcome.error.suggestion) == ("No such city.", "Spell it.")


@pytest.mark.parametrize(
    "error", [None, 3, [], "", {}, {"type": "Not A Word", "message": 7, "code": 200}, {"type": 5}]
)
async def test_a_failure_that_says_nothing_useful_is_one_all_the_same(
    world: World, receiver: Receiver, error: Any
) -> None:
    outcome = await post(world, receiver, answered({"status": "failed", "error": error}))
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type) == (500, "endpoint_failed")
    assert outcome.error.message == "The endpoint says that the item failed."


async def test_what_an_endpoint_says_is_bounded_and_holds_none_of_our_secrets(
    world: World, receiver: Receiver
) -> None:
    told = f"you sent {SECRET} and Bearer-of-mine " + "x" * 5000
    outcome = await post(
        world,
        receiver,
        answered({"status": "failed", "error": told}),
        secret=SECRET,
        headers={"X-Key": "Bearer-of-mine"},
    )
    assert isinstance(outcome, Failure)
    assert outcome.error.message.startswith("you sent *** and *** xxx")
    assert len(outcome.error.message) <= 300


@pytest.mark.parametrize(
    ("asked", "delay"),
    [(7, 7.0), (0, 0.0), (1e9, 86400.0), (-1, None), (True, None), ("7", None), (None, None)],
)
async def test_the_endpoint_may_ask_for_another_attempt(
    world: World, receiver: Receiver, asked: Any, delay: float | None
) -> None:
    outcome = await post(world, receiver, answered({"status": "retry", "delay_seconds": asked}))
    assert isinstance(outcome, Retry)
    assert (outcome.delay_seconds, outcome.waiting) == (delay, False)
    assert (outcome.error.type, outcome.error.retryable) == ("endpoint_retry", True)


@pytest.mark.parametrize("code", [429, 503])
async def test_no_capacity_waits_as_long_as_asked_and_uses_no_attempt(
    world: World, receiver: Receiver, code: int
) -> None:
    outcome = await post(world, receiver, status(code, Retry_After=40))
    assert isinstance(outcome, Retry)
    assert outcome.waiting
    assert outcome.delay_seconds is not None
    assert 40 <= outcome.delay_seconds <= 44
    assert (outcome.error.type, outcome.error.upstream_status) == ("endpoint_busy", code)


async def test_a_rate_limit_without_a_time_waits_half_a_minute(world: World, receiver: Receiver) -> None:
    outcome = await post(world, receiver, status(429))
    assert isinstance(outcome, Retry)
    assert outcome.waiting
    assert outcome.delay_seconds is not None
    assert 30 <= outcome.delay_seconds <= 33


@pytest.mark.parametrize("code", [408, 409, 500, 502, 503, 504, 599])
async def test_trouble_of_its_own_is_tried_again_and_counts(
    world: World, receiver: Receiver, code: int
) -> None:
    outcome = await post(world, receiver, status(code))
    assert isinstance(outcome, Retry)
    assert (outcome.waiting, outcome.delay_seconds) == (False, None)
    assert (outcome.error.type, outcome.error.upstream_status) == ("endpoint_error", code)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410, 413, 422, 451])
async def test_every_other_refusal_is_final(world: World, receiver: Receiver, code: int) -> None:
    outcome = await post(world, receiver, status(code, b'{"error": {"message": "not like this"}}'))
    assert isinstance(outcome, Failure)
    assert (outcome.error.type, outcome.error.upstream_status) == ("endpoint_refused", code)
    assert ("not like this" in outcome.error.message) == (code not in (401, 403))


@pytest.mark.parametrize("code", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_final(world: World, receiver: Receiver, code: int) -> None:
    outcome = await post(world, receiver, status(code, Location=receiver.url + "/elsewhere"))
    assert isinstance(outcome, Failure)
    assert outcome.error.upstream_status == code
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (hang(), "endpoint_unreachable"),
        (reset(), "endpoint_connection_lost"),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "endpoint_connection_lost"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "endpoint_connection_lost"),
        (drip(), "endpoint_unreachable"),
        (drip(headers_too=True), "endpoint_unreachable"),
        (endless(), "endpoint_answer_too_large"),
        (bomb(megabytes=20), "endpoint_answer_too_large"),
    ],
    ids=["hang", "reset", "not-http", "short-body", "drip", "drip-headers", "endless", "bomb"],
)
async def test_no_usable_answer_is_tried_again_and_counts(
    world: World, receiver: Receiver, behaviour: Behaviour, kind: str
) -> None:
    outcome = await post(world, receiver, behaviour, timeout_seconds=1.0 if "unreachable" in kind else 20.0)
    assert isinstance(outcome, Retry)
    assert (outcome.error.type, outcome.waiting, outcome.error.upstream_status) == (kind, False, None)


async def test_nobody_there_and_a_private_address_look_the_same(world: World, receiver: Receiver) -> None:
    """On the worker, whatever was allowed when the batch was made."""
    model, _ = validate_config(get("http"), {"url": receiver.url}, allow_private=True)
    async with HttpSession(allow_private=False) as guarded:
        refused = await world.run(get("http"), GIVEN, model, replace(world.services, http=guarded))
    assert receiver.accepted == 0
    closed, _ = validate_config(get("http"), {"url": "http://127.0.0.1:1/"}, allow_private=True)
    assert refused == await world.run(get("http"), GIVEN, closed)


BAD_JSON = [
    b"<html>",
    b"{",
    b"NaN",
    b"[Infinity]",
    b'{"a": 1} x',
    b"\xff",
    b"[" * 65 + b"]" * 65,
    b"[18446744073709551616]",
    b"[-9223372036854775809]",
]


@pytest.mark.parametrize("body", BAD_JSON)
async def test_a_success_without_strict_json_is_none(world: World, receiver: Receiver, body: bytes) -> None:
    outcome = await post(world, receiver, status(200, body))
    assert isinstance(outcome, Retry)
    assert (outcome.error.type, outcome.error.upstream_status) == ("endpoint_bad_answer", 200)


def test_json_at_the_limits_is_taken() -> None:
    assert strict(b"[" * 64 + b"]" * 64)
    assert strict(b"[9223372036854775807, -9223372036854775808, 1e300]")
    assert strict(b'"12345678901234567890123"') == "12345678901234567890123"


@pytest.mark.parametrize(
    ("config", "pointer", "code"),
    [
        ({}, "/config/url", "missing"),
        ({"url": "http://example.com/"}, "/config/url", "address_refused"),
        ({"url": "https://10.0.0.1/"}, "/config/url", "address_refused"),
        ({"url": "https://example.com:8443/"}, "/config/url", "address_refused"),
        ({"url": "https://user@example.com/"}, "/config/url", "address_refused"),
        ({"headers": {"Host": "x"}}, "/config/headers", "header_name"),
        ({"headers": {"Webhook-Id": "x"}}, "/config/headers", "header_name"),
        ({"headers": {"content-type": "x"}}, "/config/headers", "header_name"),
        ({"headers": {"X": "a\r\nb: c"}}, "/config/headers", "header_value"),
        ({"headers": {"X": "a", "x": "b"}}, "/config/headers", "duplicate_name"),
        ({"secret": ""}, "/config/secret", "too_short"),
        ({"timeout_seconds": 0}, "/config/timeout_seconds", "greater_than_equal"),
        ({"method": "GET"}, "/config/method", "extra_forbidden"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_a_row_exists(
    config: dict[str, Any], pointer: str, code: str
) -> None:
    whole = config if pointer == "/config/url" else {"url": "https://example.com/"} | config
    model, problems = validate_config(get("http"), whole)
    assert model is None
    assert [(problem.pointer, problem.code) for problem in problems] == [(pointer, code)]
