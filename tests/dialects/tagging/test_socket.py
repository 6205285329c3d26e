"""What a listener hears while nothing happens."""

from collections.abc import AsyncIterator

import pytest

from gristmill.dialects.tagging import socket
from gristmill.dialects.tagging.socket import Frame


async def quiet() -> AsyncIterator[Frame | None]:
    for frame in (None, {"row_id": 1}, None, None, {"type": "completed"}):
        yield frame


async def test_10_a_look_that_brings_nothing_is_told_once_it_has_been_quiet_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [one async for one in socket._kept_alive(quiet())] == [{"row_id": 1}, {"type": "completed"}]
    monkeypatch.setattr(socket, "KEEP_ALIVE_SECONDS", 0.0)
    kept = {"type": "keepalive"}
    assert [one async for one in socket._kept_alive(quiet())] == [
        kept, {"row_id": 1}, kept, kept, {"type": "completed"},
    ]  # fmt: skip
