"""How often the cycle collector looks, and at what.

Python's defaults walk the whole heap, libraries included, again and again while a thousand requests are read: that was a
third of a POST's CPU (docs/performance.md). What start-up has made lives as long as the process, and nearly all that a
request makes is freed by reference counts.
"""

import gc

# Python's are 700, 10, 10. With 5,000, 20, 50 a worker with a thousand calls in flight, whose objects are nearly all in use,
# spent a tenth of a call's CPU here. What has been looked at once is looked at as often as with these.
YOUNG, ONCE, TWICE = 20_000, 5, 50
# More than what is in a lone worker's hands at a time, three objects for each item that is claimed or not yet recorded: they go
# by themselves, and a drain took 4 % less of its CPU. A process that answers requests gained nothing.
YOUNG_OF_WORKER = 60_000


def set_aside(young: int = YOUNG) -> None:
    """Call once everything is up: what is there now is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(young, ONCE, TWICE)
