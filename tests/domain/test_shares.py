"""Dividing a limit, and pouring from what fills at a steady rate."""

import random

import pytest

from gristmill.domain.shares import fair, pour, share


@pytest.mark.parametrize(
    ("most", "wanted", "shares"),
    [
        (100, {1: 500, 2: 500}, {1: 50, 2: 50}),
        (100, {1: 10, 2: 500}, {1: 10, 2: 90}),
        (100, {1: 10, 2: 20}, {1: 10, 2: 20}),
        (10, {1: 9, 2: 9, 3: 1}, {1: 4, 2: 5, 3: 1}),
        (1, {1: 5, 2: 5}, {1: 0, 2: 1}),
        (5, {1: 0}, {1: 0}),
    ],
)
def test_nobody_gets_more_than_it_wants_and_the_rest_is_shared_alike(
    most: int, wanted: dict[int, int], shares: dict[int, int]
) -> None:
    assert fair(most, wanted) == shares


def test_what_cannot_be_divided_goes_to_each_in_its_turn() -> None:
    wanted = {1: 5, 2: 5, 3: 6, 4: 1}
    shares = [fair(6, wanted, turn) for turn in range(3)]
    assert {sum(one.values()) for one in shares} == {6}
    assert {(one[1], one[2], one[3], one[4]) for one in shares} == {(2, 2, 1, 1), (2, 1, 2, 1), (1, 2, 2, 1)}
    assert {fair(1, {7: 1, 8: 9}, turn)[7] for turn in range(2)} == {0, 1}


@pytest.mark.parametrize("seed", range(20))
def test_a_division_gives_all_there_is_and_no_more(seed: int) -> None:
    chance = random.Random(seed)
    wanted = {worker: chance.randrange(50) for worker in range(chance.randint(1, 9))}
    most = chance.randrange(200)
    assert sum(fair(most, wanted).values()) == min(most, sum(wanted.values()))


def test_a_worker_gets_no_more_than_the_others_leave_it_and_keeps_what_goes_on() -> None:
    wanted = {1: 100, 2: 100}
    assert share(100, 1, 0, wanted, granted_to_others=100) == (0, 0)
    assert share(100, 1, 0, wanted, granted_to_others=70) == (30, 30)
    assert share(100, 1, 0, wanted, granted_to_others=0) == (50, 50)
    assert share(100, 1, 80, wanted, granted_to_others=0) == (50, 80)
    assert share(10, 1, 5, wanted, granted_to_others=20) == (0, 5)


def drawn(per_minute: int, asked: float, seconds: float, *, every: float = 0.1) -> float:
    """How much comes out for so long, for who always asks for that much."""
    out, left = 0.0, 0.0
    for _ in range(round(seconds / every)):
        given, left = pour(left, per_minute, every, back=0, asked=asked, least=1)
        out += given
    return out


def test_what_comes_out_is_the_rate() -> None:
    assert drawn(600, 50, 60) == pytest.approx(600, abs=1)
    assert drawn(6, 5, 60) == pytest.approx(6, abs=1)


def test_what_nobody_asks_for_collects_for_a_second_and_one_is_always_to_be_had() -> None:
    assert pour(0, 600, 3600, back=0, asked=1000, least=1) == (10, 0)
    assert pour(0, 6, 3600, back=0, asked=1000, least=1) == (1, 0)


def test_what_is_too_little_to_be_of_use_collects() -> None:
    assert pour(0, 600, 0.5, back=0, asked=8, least=6) == (0, 5)
    assert pour(5, 600, 0.1, back=0, asked=8, least=6) == (6, 0)


def test_what_is_more_than_can_collect_is_given_by_a_full_bucket_and_owed() -> None:
    given, left = pour(0, 600, 1, back=0, asked=50, least=25)
    assert (given, left) == (25, -15)
    given, left = pour(left, 600, 1.5, back=0, asked=25, least=25)
    assert (given, left) == (0, 0)


def test_what_comes_back_can_be_had_again_and_what_was_overdrawn_is_owed() -> None:
    assert pour(0, 600, 0, back=4, asked=9, least=1) == (4, 0)
    assert pour(5, 600, 0, back=-20, asked=9, least=1) == (0, -15)
    assert pour(9, 600, 0, back=9, asked=0, least=1) == (0, 10)


def test_no_more_is_owed_than_a_minute_brings() -> None:
    assert pour(0, 600, 0, back=-2e9, asked=5, least=5) == (0, -600)
    assert pour(-2e9, 600, 1, back=0, asked=5, least=5) == (0, -600)  # also where the limit was another
    assert pour(10, 600, 0, back=0, asked=2e9, least=2e9) == (2e9, 10 - 2e9)


def test_who_has_waited_as_long_as_what_it_wants_takes_to_come_is_served_beside_those_who_want_little() -> (
    None
):
    left, waited = 0.0, 0.0
    while waited < 60:
        given, left = pour(left, 600, 0.1, back=0, asked=8, least=1)
        assert given > 0  # a small one takes what has come, so that the bucket is never full
        large, left = pour(left, 600, 0, back=0, asked=25, least=25, waited=waited)
        if large:
            break
        waited += 0.1
    assert (large, waited) == (25, pytest.approx(2.5, abs=0.2))
