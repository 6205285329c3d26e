"""How often the cycle collector looks, and at what.

Python's defaults walk the whole heap, libraries included, again and again while a thousand requests are read: that was a
third of a POST's CPU (docs/performance.md). What start-up has made lives as long as the process, and nearly all that a
request makes is freed by reference counts.
"""

import gc

THRESHOLDS = (5_000, 20, 50)  # Python's are 700, 10, 10


def set_aside() -> None:
    """Call once everything is up: what is there now is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
