"""How often the cycle collector looks, and at what.

Python's defaults walk the whole heap, libraries included, again and again while a thousand requests are read: that was a
third of a POST's CPU (docs/performance.md). What start-up has made lives as long as the process, and nearly all that a
request makes is freed by reference counts.
"""

import gc

# Python's are 700, 10, 10. A thousand calls in flight make some 5,000 objects every few dozen calls, nearly all still in use: to
# look through them that often takes a tenth of the CPU of a call. What has been looked at once is, as often as with 5,000, 20.
THRESHOLDS = (20_000, 5, 50)


def set_aside() -> None:
    """Call once everything is up: what is there now is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
