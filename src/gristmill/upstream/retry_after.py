"""How long an endpoint asks to be left alone. Pure: the time of reading is an argument."""

import random
import re
from collections.abc import Mapping

from gristmill.net.retry_after import retry_after_seconds

MAX_SECONDS = 120.0
_SPREAD = 0.1
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or HTTP date); None for junk or no wait.

    At most MAX_SECONDS. Never less than asked for below that, and up to a tenth more, so that many items told
    the same do not come back at once.
    """
    asked = _milliseconds(headers.get("retry-after-ms")) or retry_after_seconds(headers, now)
    if not asked:
        return None
    return min(asked * (1 + random.uniform(0, _SPREAD)), MAX_SECONDS)  # noqa: S311 - a spread, not a secret


def _milliseconds(text: str | None) -> float | None:
    return float(text) / 1000 if text is not None and _NUMBER.fullmatch(text.strip()) else None
