"""The limit that follows how an endpoint does: by windows, never by a single error."""

import pytest

from gristmill.upstream.limit import AdaptiveLimit


class Windows:
    """Calls at a limit, a second at a time."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self.limit = limit
        self._second = 0

    def one(self, calls: int, errors: int, used: int | None = None) -> int:
        """The limit after a second with so many calls, as many of them in error."""
        used = self.limit.now if used is None else used
        for number in range(calls):
            self.limit.ended(self._second + number / calls * 0.9, error=number < errors, used=used)
        self._second += 1
        self.limit.turn(self._second)
        return self.limit.now


def test_it_begins_at_the_most_and_stays_there_while_all_is_well() -> None:
    windows = Windows(AdaptiveLimit(64))
    assert [windows.one(50, 0) for _ in range(3)] == [64, 64, 64]


@pytest.mark.parametrize(("calls", "errors"), [(1, 1), (5, 1), (100, 1), (100, 9), (1000, 99)])
def test_a_single_error_or_a_small_share_cuts_nothing(calls: int, errors: int) -> None:
    limit = AdaptiveLimit(64)
    assert Windows(limit).one(calls, errors) == 64
    assert limit.cuts == 0


@pytest.mark.parametrize(("calls", "errors"), [(2, 2), (20, 2), (100, 10), (500, 500)])
def test_a_window_cuts_once_however_many_errors_it_has(calls: int, errors: int) -> None:
    limit = AdaptiveLimit(100)
    assert Windows(limit).one(calls, errors) == 90
    assert limit.cuts == 1


def test_a_burst_of_an_outage_costs_a_tenth_and_is_made_good_in_seconds() -> None:
    windows = Windows(AdaptiveLimit(128))
    assert windows.one(400, 400) == 115
    assert windows.one(50, 0) == 121
    assert windows.one(50, 0) == 128


def test_it_comes_back_from_next_to_nothing_within_half_a_minute() -> None:
    windows = Windows(AdaptiveLimit(200))
    for _ in range(60):
        windows.one(10, 10)
    assert 1 <= windows.limit.now < 60
    for _ in range(30):
        windows.one(10, 0)
    assert windows.limit.now >= 180


def test_it_never_falls_below_one() -> None:
    windows = Windows(AdaptiveLimit(3))
    for _ in range(50):
        windows.one(4, 4)
    assert windows.limit.now == 1


def test_a_limit_that_nobody_comes_near_does_not_grow() -> None:
    windows = Windows(AdaptiveLimit(100))
    windows.one(10, 10)
    assert windows.one(10, 0, used=5) == 90


def test_a_fixed_limit_stays_whatever_happens() -> None:
    windows = Windows(AdaptiveLimit(64, adaptive=False))
    assert [windows.one(50, 50) for _ in range(3)] == [64, 64, 64]
