"""How long a server asks to be left alone (RFC 9110, section 10.2.3). Pure: the time of reading is an argument."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")  # some send decimals


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """What `Retry-After` asks for, as seconds or as an HTTP date; None when it is absent, past or junk.

    A date counts from the server's own `Date`, so that a clock that is wrong, theirs or ours, does no harm; without
    one it counts from `now` (Unix seconds).
    """
    asked = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(asked):
        return float(asked) or None
    until, sent = _instant(asked), _instant(headers.get("Date", ""))
    if until is None:
        return None
    seconds = until - (now if sent is None else sent)
    return seconds if seconds > 0 else None


def _instant(date: str) -> float | None:
    """Unix seconds of an HTTP date; None for anything else."""
    try:
        at = parsedate_to_datetime(date)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
