"""Time-ordered UUIDs (version 7, RFC 9562). Made here, because Postgres has them only from version 18."""

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last_ms = 0
_counter = 0


def uuid7() -> UUID:
    """A new id, greater than every id this process made before: 48 bits of milliseconds, a 12-bit counter, 62 random bits."""
    global _last_ms, _counter
    with _lock:
        now = time.time_ns() // 1_000_000
        if now > _last_ms:
            _last_ms, _counter = now, 0
        else:
            _counter += 1
            if _counter > 0xFFF:
                _last_ms, _counter = _last_ms + 1, 0
        ms, counter = _last_ms, _counter
    return UUID(
        int=(ms << 80) | (0x7 << 76) | (counter << 64) | (0b10 << 62) | (int.from_bytes(os.urandom(8)) >> 2)
    )


def first_uuid7_at(unix_ms: int) -> UUID:
    """The lower bound of all ids made at or after that time: where a partition begins."""
    return UUID(int=unix_ms << 80)
