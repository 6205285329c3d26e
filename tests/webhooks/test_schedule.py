"""The decision after each attempt, and what receivers ask for. Time is data here."""

import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from gristmill.domain.deliveries import Attempt, Dead, Delivered, RetryIn, after
from gristmill.net.retry_after import retry_after_seconds

MINUTE, HOUR = 60, 3600
# Standard Webhooks 1.0.0: before sends number 1 to 10.
SCHEDULE = [0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR]
NOW = 1_795_344_300


@pytest.fixture(autouse=True)
def seeded():
    random.seed(20261122)


def answered(code, **more):
    return Attempt(duration_ms=1, status_code=code, **more)


FAILED = Attempt(duration_ms=1, error="unreachable")


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_only_2xx_delivers(code):
    assert after(answered(code), 0) == Delivered()


@pytest.mark.parametrize(
    "code", [100, 199, 300, 301, 302, 304, 307, 308, 400, 401, 404, 409, 429, 500, 503, 599]
)
def test_everything_else_is_tried_again_redirects_too(code):
    assert isinstance(after(answered(code), 0), RetryIn)


def test_410_ends_a_delivery_at_once():
    assert after(answered(410), 0) == Dead("gone")


def test_a_delivery_is_sent_ten_times_on_the_schedule_give_or_take_a_fifth_and_then_is_dead():
    for _ in range(200):
        position, waits = 0, [0.0]
        while isinstance(verdict := after(FAILED, position), RetryIn):
            assert verdict.position == position + 1
            position = verdict.position
            waits.append(verdict.delay_seconds)
        assert verdict == Dead("exhausted")
        assert len(waits) == 10
        for wait, planned in zip(waits, SCHEDULE, strict=True):
            assert 0.8 * planned <= wait <= 1.2 * planned


def test_the_waits_of_many_deliveries_are_spread():
    waits = [after(FAILED, 1).delay_seconds for _ in range(1000)]
    assert min(waits) < 0.85 * 300
    assert max(waits) > 1.15 * 300
    assert sum(waits) / len(waits) == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("code", [429, 503, 500])
def test_a_receiver_may_ask_for_more_time_but_not_for_less(code):
    assert after(answered(code, retry_after_seconds=600.0), 0).delay_seconds == 600
    assert after(answered(code, retry_after_seconds=1.0), 1).delay_seconds >= 0.8 * 300


def test_what_a_receiver_asks_for_ends_at_a_day():
    assert after(answered(503, retry_after_seconds=1e9), 0).delay_seconds == 24 * HOUR
    assert after(answered(503, retry_after_seconds=1e9), 8).delay_seconds <= 1.2 * 24 * HOUR


def test_asking_for_time_does_not_lengthen_the_schedule():
    assert after(answered(503, retry_after_seconds=600.0), 9) == Dead("exhausted")


def date(seconds):
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": " 120 "}, 120),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "1e9"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "abc"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "999999999"}, 999999999),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "١٢٠"}, None),
        ({"Retry-After": date(NOW + 90)}, 90),
        ({"Retry-After": date(NOW - 90)}, None),
        ({"Retry-After": date(NOW)}, None),
        ({"Retry-After": "Fri, 32 Nov 2026 10:45:00 GMT"}, None),
        ({"Retry-After": "Sun, 22 Nov 99999 10:45:00 GMT"}, None),
        # A receiver whose clock is an hour ahead asks for 90 s, not for an hour and a half minute.
        ({"Retry-After": date(NOW + HOUR + 90), "Date": date(NOW + HOUR)}, 90),
        ({"Retry-After": date(NOW + 90), "Date": "junk"}, 90),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_junk_is_ignored(headers, seconds):
    assert retry_after_seconds(headers, NOW) == seconds
