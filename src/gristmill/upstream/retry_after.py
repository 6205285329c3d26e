"""How long an endpoint asks to be left alone. Pure: the time of reading is an argument."""

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_SECONDS = 120.0
_SPREAD = 0.1
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or HTTP date); None for junk or no wait.

    At most MAX_SECONDS. Never less than asked for below that, and up to a tenth more, so that many items told
    the same do not come back at once. A date counts from the sender's own `Date`, whatever its clock says.
    """
    asked = _milliseconds(headers.get("retry-after-ms")) or _seconds(headers, now)
    if not asked:
        return None
    return min(asked * (1 + random.uniform(0, _SPREAD)), MAX_SECONDS)  # noqa: S311 - a spread, not a secret


def _milliseconds(text: str | None) -> float | None:
    return float(text) / 1000 if text is not None and _NUMBER.fullmatch(text.strip()) else None


def _seconds(headers: Mapping[str, str], now: float) -> float | None:
    text = headers.get("retry-after")
    if text is None:
        return None
    if _NUMBER.fullmatch(text.strip()):
        return float(text)
    at = _instant(text)
    if at is None:
        return None
    return max(0.0, at - (_instant(headers.get("date", "")) or now))


def _instant(text: str) -> float | None:
    """Unix seconds of an HTTP date."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() if isinstance(at, datetime) else None
