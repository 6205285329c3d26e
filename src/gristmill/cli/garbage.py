"""How often the cycle collector looks, and at what.

Python's defaults walk the whole heap, libraries included, again and again while a thousand requests are read: that was a
third of a POST's CPU (docs/performance.md). What start-up has made lives as long as the process, and nearly all that a
request makes is freed by reference counts.
"""

import gc

# Python's are 700, 10, 10. With 5,000, 20, 50 a worker with a thousand calls in flight, whose objects are nearly all in use,
# spent a tenth of a call's CPU here. What has been looked at once is looked at as often as with these.
THRESHOLDS = (20_000, 5, 50)


def set_aside() -> None:
    """Call once everything is up: what is there now is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
