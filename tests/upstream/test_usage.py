"""Counting what a call used. Seed 004, rule 19."""

from typing import Any

import pytest

from gristmill.upstream.outage import Outage
from gristmill.upstream.retry_after import retry_after
from gristmill.upstream.usage import call

SENT: dict[str, Any] = {"model": "asked", "messages": [{"role": "user", "content": "x" * 40}]}
CHOICES = [{"message": {"role": "assistant", "content": "y" * 8}}]


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, 5, 7),
        ({"input_tokens": 5, "output_tokens": 7}, 5, 7),
        ({"prompt_tokens": 5, "total_tokens": 5}, 5, 0),  # embeddings
        (None, 10, 2),
        ("many", 10, 2),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, 10, 0),
        ({"prompt_tokens": True, "completion_tokens": 2**40}, 10, 0),
    ],
)
def test_the_providers_count_is_the_truth_and_characters_the_estimate(
    usage: object, prompt: int, completion: int
) -> None:
    made = call(SENT, {"model": "answered", "choices": CHOICES, "usage": usage})
    assert (made.model, made.prompt_tokens, made.completion_tokens) == ("answered", prompt, completion)
    assert made.total_tokens == prompt + completion


def test_the_model_asked_for_is_named_where_the_answer_names_none() -> None:
    assert call(SENT, {"choices": CHOICES}).model == "asked"


def test_images_are_not_counted_as_text() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    sent = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "four"}]}]}
    assert call(sent, {}).prompt_tokens == 1


def test_an_answer_nested_deeply_is_counted_all_the_same() -> None:
    nested: object = "deep"
    for _ in range(5000):
        nested = [nested]
    assert call(SENT, {"choices": nested}).completion_tokens == 0


def test_waits_double_while_an_outage_lasts_and_start_small_after_it() -> None:
    outage = Outage()
    for now, planned in [(100, 1), (101, 1), (102, 2), (104, 4), (108, 8), (200, 30)]:
        assert planned * 0.8 <= outage.delay(now) <= planned * 1.2
    outage.over()
    assert outage.delay(201) <= 1.2


def test_a_date_counts_from_the_senders_own_clock() -> None:
    headers = {"Retry-After": "Sun, 22 Nov 2026 10:00:30 GMT", "Date": "Sun, 22 Nov 2026 10:00:00 GMT"}
    wait = retry_after(headers, now=0)
    assert wait is not None
    assert 30 <= wait <= 33


@pytest.mark.parametrize("text", ["", " ", "Sun, 99 Nov 2026", "١٢", "1" * 400, "inf", "1,5"])
def test_junk_is_no_wait(text: str) -> None:
    assert retry_after({"Retry-After": text}, now=0) is None


@pytest.mark.parametrize(
    ("headers", "least"),
    [({"Retry-After": "1.5"}, 1.5), ({"retry-after-ms": "250"}, 0.25), ({"Retry-After": "999999"}, 120)],
)
def test_decimals_and_milliseconds_are_read_and_long_waits_cut(headers: dict[str, str], least: float) -> None:
    wait = retry_after(headers, now=0)
    assert wait is not None
    assert least <= wait <= min(least * 1.1, 120)
