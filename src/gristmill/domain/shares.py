"""What of a limit one worker gets. Pure: the time that has passed is an argument."""

from collections.abc import Mapping

# What has not been asked for collects for so long and no longer: the most that can come at once is a second's worth.
BURST_SECONDS = 1.0
# What a worker has taken in advance is good for so long.
SLICE_SECONDS = 1.0


def fair(most: int, wanted: Mapping[int, int]) -> dict[int, int]:
    """`most` divided among workers: nobody gets more than it wants, and who wants more gets as much as each other who
    does. In whole numbers; what cannot be divided goes to the last."""
    left, shares = most, {}
    greedy_last = sorted(wanted, key=lambda one: (wanted[one], one))
    for place, one in enumerate(greedy_last):
        shares[one] = min(wanted[one], left // (len(wanted) - place))
        left -= shares[one]
    return shares


def share(
    most: int, worker: int, in_use: int, wanted: Mapping[int, int], granted_to_others: int
) -> tuple[int, int]:
    """How many calls this worker may have going: its fair part as far as the others leave it. And how many count as its own:
    what goes on now cannot be taken back, and is given back as it ends."""
    due = max(0, min(fair(most, wanted)[worker], most - granted_to_others))
    return due, max(in_use, due)


def pour(
    left: float, per_minute: int, seconds: float, *, back: float, asked: float, least: float
) -> tuple[float, float]:
    """Out of a bucket that had `left` so many seconds ago and fills at a steady rate: how much is given, and what is left.

    `back`: what was taken before and not used; below 0: what was used beyond what was taken. `asked`: at most so much is
    given; `least`: less than that is of no use. A full bucket gives it all the same, and is empty for longer then.
    """
    rate = per_minute / 60
    full = max(1.0, rate * BURST_SECONDS)
    left = min(full, left + rate * seconds + back)
    if asked <= 0:
        return 0.0, left
    given = min(asked, left) if left >= least else least if left >= full else 0.0
    return given, left - given
