"""What follows from an answer, and what is told about it."""

import orjson
import pytest

from gristmill.domain.outcomes import Failure, Retry
from gristmill.domain.usage import Call, Usage
from gristmill.upstream.errors import of_status, unreachable


def of(status: int, message: str = "", code: str | None = None):  # type: ignore[no-untyped-def]
    body = orjson.dumps({"error": {"message": message, "code": code}})
    return of_status(status, {}, body, now=0, secret="hunter2-hunter2")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        ("the request exceeds the available context size", None),
        ("prompt is too long: 210000 tokens > 200000 maximum", None),
    ],
)
def test_a_chat_that_is_too_long_is_told_from_other_refusals(message: str, code: str | None) -> None:
    assert of(400, message, code).error.type == "upstream_too_long"


def test_the_providers_words_are_one_line_of_bounded_length() -> None:
    told = of(400, "bad\n\x1b[31m" + "x" * 5000).error.message
    assert "\n" not in told
    assert len(told) < 400


@pytest.mark.parametrize(
    "secret",
    ["hunter2-hunter2", "sk-proj-abcdef1234", "Bearer abc.def", "sk-ab**********yz", "gsk_0123456789"],
)
def test_no_key_is_repeated(secret: str) -> None:
    assert secret not in of(400, f"I was given {secret}, sorry").error.message


@pytest.mark.parametrize("status", [401, 403])
def test_nothing_is_repeated_of_what_is_said_about_credentials(status: int) -> None:
    assert "swordfish" not in of(status, "Wrong password: swordfish").error.message


def test_control_characters_are_left_out() -> None:
    assert "\x1b" not in of(400, "red \x1b[31m").error.message


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"error": 3}', b'{"error": null}', b"\xff", b"{}"]
)
def test_any_body_of_an_error_will_do(body: bytes) -> None:
    error = of_status(400, {}, body, now=0, secret=None).error
    assert error.message == "The model's endpoint refused the request (HTTP 400)."


@pytest.mark.parametrize("body", [b'{"error": "short"}', b'{"message": "short"}', b'{"detail": "short"}'])
def test_other_shapes_of_an_error_are_read(body: bytes) -> None:
    assert of_status(400, {}, body, now=0, secret=None).error.message.endswith(": short")


def test_what_was_used_before_stays_with_the_outcome() -> None:
    used = Usage((Call("m", "tool_call", 1, 2),))
    failure, retry = of(400).outcome(used), unreachable("why").outcome(used)
    assert isinstance(failure, Failure)
    assert isinstance(retry, Retry)
    assert failure.usage == retry.usage == used
