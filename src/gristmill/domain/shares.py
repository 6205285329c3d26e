"""What of a limit one worker gets. Pure: the time that has passed is an argument."""

from collections.abc import Mapping

# What has not been asked for collects for so long and no longer: the most that can come at once is a second's worth.
BURST_SECONDS = 1.0
# What a worker has taken in advance is good for so long.
SLICE_SECONDS = 1.0
# What cannot be divided evenly goes to others after so long.
TURN_SECONDS = 5.0


def fair(most: int, wanted: Mapping[int, int], turn: int = 0) -> dict[int, int]:
    """`most` divided among workers: nobody gets more than it wants, and who wants more gets as much as each other who
    does. In whole numbers; what cannot be divided goes to some, and to others of them at another `turn`."""
    left = most
    shares: dict[int, int] = {}
    greedy_last = sorted(wanted, key=lambda one: (wanted[one], one))
    for place, one in enumerate(greedy_last):
        each, rest = divmod(left, len(wanted) - place)
        if wanted[one] > each:
            greedy = sorted(greedy_last[place:])
            return shares | {
                worker: each + ((turn - 1 - rank) % len(greedy) < rest) for rank, worker in enumerate(greedy)
            }
        shares[one] = wanted[one]
        left -= wanted[one]
    return shares


def share(
    most: int, worker: int, in_use: int, wanted: Mapping[int, int], granted_to_others: int, turn: int = 0
) -> tuple[int, int]:
    """How many calls this worker may have going: its fair part as far as the others leave it. And how many count as its own:
    what goes on now cannot be taken back, and is given back as it ends."""
    due = max(0, min(fair(most, wanted, turn)[worker], most - granted_to_others))
    return due, max(in_use, due)


def pour(
    left: float,
    per_minute: int,
    seconds: float,
    *,
    back: float,
    asked: float,
    least: float,
    waited: float = 0.0,
) -> tuple[float, float]:
    """Out of a bucket that had `left` so many seconds ago and fills at a steady rate: how much is given, and what is left.

    `back`: what was taken before and not used; below 0: what was used beyond what was taken, of which no more than a minute
    brings is owed. `asked`: at most so much is given; `least`: less than that is of no use. A full bucket gives it all the
    same, and is empty for longer then; so does one that is not in debt to who has `waited` as long as so much takes to come:
    else those who want little would take what he waits for.
    """
    rate = per_minute / 60
    full = max(1.0, rate * BURST_SECONDS)
    left = max(-float(per_minute), min(full, left + rate * seconds + back))
    if asked <= 0:
        return 0.0, left
    if left < least and not (left >= full or (left >= 0 and 0 < least <= waited * rate)):
        return 0.0, left
    given = min(asked, left) if left >= least else least
    return given, left - given
