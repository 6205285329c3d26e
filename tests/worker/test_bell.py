"""Rings that other processes hear."""

import pytest

from factories import sql
from gristmill.db import Database
from gristmill.domain.news import News
from gristmill.worker.bell import CHANNEL, Bell
from mill import eventually


async def test_others_hear_what_the_news_are_and_take_words_that_they_do_not_know_for_any(
    database: Database,
) -> None:
    """Such as those of a later release."""
    heard: list[News] = []
    one, other = Bell(database), Bell(database)
    other.listeners.append(heard.append)
    other.start(listen=True)
    one.start(listen=False)
    try:

        async def it_listens() -> bool:
            one.ring()
            return bool(heard)

        await eventually(it_listens)
        one.ring(News.FILE)

        async def of_the_file() -> bool:
            return News.FILE in heard

        await eventually(of_the_file)
        heard.clear()
        await sql(database, "SELECT pg_notify($1, 'a word of tomorrow')", CHANNEL)

        async def of_anything() -> bool:
            return bool(heard) and set(heard) == {News.ANY}

        await eventually(of_anything)
    finally:
        await one.stop()
        await other.stop()


async def test_a_ring_that_postgres_refused_does_not_silence_those_after_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[News] = []
    one, other = Bell(database), Bell(database)
    other.listeners.append(heard.append)
    other.start(listen=True)
    refused: list[None] = []
    monkeypatch.setattr("gristmill.worker.bell._NOTIFY", "SELECT 1 / 0 WHERE $1::text || $2 <> ''")
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
