"""A processor that lets a refused source through: the item ends, or is tried again, as the refusal says."""

from uuid import UUID, uuid4

from factories import get, make_batch
from gristmill.db import Database
from gristmill.domain.outcomes import Outcome
from gristmill.domain.sources import FileSource, SourceRefused, UrlSource
from gristmill.domain.states import TERMINAL
from gristmill.processors.base import Context
from gristmill.store import results
from gristmill.store.new_batches import NewItem
from mill import NoConfig, Script, Scripted, eventually, working


class Reading(Scripted):
    """Opens what the services have, and what it is told fails as it is told."""

    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        self.started.append(context.ordinal)
        if given.do == "retry":
            raise SourceRefused("storage_unavailable", "The file storage cannot be reached.", retryable=True)
        source = FileSource(uuid4()) if given.do == "fail" else UrlSource("https://hush.invalid/")
        async with context.services.open_source(context.tenant_id, source):
            raise AssertionError


async def test_a_refusal_is_the_items_end_or_another_attempt(database: Database) -> None:
    batch_id = await make_batch(database, [_item("a", "fail"), _item("b", "retry")], max_attempts=2)
    reading = Reading()
    async with working(database, reading):

        async def ended() -> bool:
            return (await get(database, batch_id)).status in TERMINAL

        await eventually(ended)
    assert sorted(reading.started) == [0, 1, 1]
    assert await _told(database, batch_id, "a") == (400, '"type":"source_refused"')
    assert await _told(database, batch_id, "b") == (500, '"type":"storage_unavailable"')


def _item(custom_id: str, do: str) -> NewItem:
    return NewItem(custom_id, f'{{"do":"{do}"}}')


async def _told(database: Database, batch_id: UUID, custom_id: str) -> tuple[int | None, str]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        result, _, _ = await results.one(connection, batch, custom_id)
    return result.code, (result.error or "").partition(",")[0].removeprefix("{")
