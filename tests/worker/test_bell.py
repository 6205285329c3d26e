"""Rings that other processes hear."""

import pytest

from gristmill.db import Database
from gristmill.worker.bell import Bell
from mill import eventually


async def test_a_ring_that_postgres_refused_does_not_silence_those_after_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[None] = []
    one, other = Bell(database), Bell(database)
    other.listeners.append(lambda: heard.append(None))
    other.start(listen=True)
    refused: list[None] = []
    monkeypatch.setattr("gristmill.worker.bell._NOTIFY", "SELECT 1 / 0 WHERE $1::text <> ''")
    monkeypatch.setattr("gristmill.worker.bell.log.exception", lambda *_args, **_more: refused.append(None))
    one.start(listen=False)
    try:
        one.ring()

        async def it_was_refused() -> bool:
            return bool(refused)

        await eventually(it_was_refused)
        monkeypatch.undo()

        async def it_is_heard() -> bool:
            one.ring()
            return bool(heard)

        await eventually(it_is_heard)
    finally:
        await one.stop()
        await other.stop()
