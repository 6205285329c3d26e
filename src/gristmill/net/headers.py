"""Headers that a caller wants sent along: which names and values can be, and may be."""

import re

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")
# The connection's own business.
_FORBIDDEN = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)
# What signed requests carry.
OURS = frozenset(
    {
        "content-type",
        "idempotency-key",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-codeer-timestamp",
        "x-codeer-signature",
        "lc-signature",
    }
)


def good_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.lower() not in _FORBIDDEN


def good_value(value: str) -> bool:
    return _VALUE.fullmatch(value) is not None
