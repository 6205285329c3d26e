"""How often somebody looks for who waits."""

from itertools import islice

import pytest

from gristmill.api.watch import INTERVAL_SECONDS, between_looks


@pytest.mark.parametrize(
    ("pending", "looks"),
    [
        (0, [0.02, 0.04, 0.08, 0.16, 0.25, 0.25]),
        (10_000, [0.12, 0.04, 0.08, 0.16, 0.25, 0.25]),
        (1_000_000, [INTERVAL_SECONDS, 0.04, 0.08, 0.16, 0.25, 0.25]),
    ],
)
def test_the_first_look_is_later_the_more_is_to_come(pending: int, looks: list[float]) -> None:
    assert list(islice(between_looks(pending), 6)) == pytest.approx(looks)
