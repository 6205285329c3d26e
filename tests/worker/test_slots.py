"""Slots: as many as the items need, none is lost, and nothing of an item is kept."""

import gc

import pytest

from factories import get, make_batch
from gristmill.db import Database
from gristmill.domain.outcomes import Success
from gristmill.store.claims import ClaimedItem
from gristmill.store.verdicts import Answered
from gristmill.worker import Worker, recorder
from gristmill.worker.slots import WOKEN, Slot
from mill import Scripted, at_gate, ended, eventually, script, working


def slots(worker: Worker) -> set[Slot]:
    return worker._items.slots._slots


async def test_items_that_never_wait_stay_in_few_slots(database: Database, scripted: Scripted) -> None:
    batch_id = await make_batch(database, 1000)
    async with working(database, scripted, concurrency=32) as worker:
        await ended(database, batch_id)
        assert 1 <= len(slots(worker)) <= WOKEN


async def test_items_that_wait_take_all_slots_they_are_claimed_for(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(database, script({"do": "succeed"}, *[{"do": "gate"}] * 15))
    async with working(database, scripted, concurrency=16):
        await at_gate(scripted, 15)
        scripted.gate.set()
        await ended(database, batch_id)


@pytest.mark.parametrize("circuit", [None, "model"])
async def test_whatever_a_processor_raises_ends_its_item_and_takes_no_slot_away(
    database: Database, scripted: Scripted, circuit: str | None
) -> None:
    steps = [{"do": "panic"}] * 4 + [{"do": "succeed"}] * 6
    batch_id = await make_batch(database, script(*steps), circuit=circuit)
    async with working(database, scripted, concurrency=4) as worker:
        await ended(database, batch_id)
        batch = await get(database, batch_id)
        assert (batch.success, batch.failed) == (6, 4)
        assert worker._items._in_hand() == 0
        await ended(database, await make_batch(database, 5))


async def test_a_slot_keeps_nothing_of_one_item_while_the_next_one_runs(
    database: Database, scripted: Scripted
) -> None:
    """Neither the slot nor the lease they share."""

    async def only_the_last_is_there() -> bool:
        gc.collect()
        answers = [one for one in gc.get_objects() if type(one) is Success and one.output == {"text": ""}]
        of_an_end = answers + [one for one in gc.get_objects() if type(one) is Answered]
        claimed = [one.ordinal for one in gc.get_objects() if type(one) is ClaimedItem]
        return (claimed, of_an_end) == ([20], [])

    batch_id = await make_batch(database, script(*[{"do": "succeed"}] * 20, {"do": "gate"}))
    async with working(database, scripted):
        await at_gate(scripted, 1)
        await eventually(only_the_last_is_there)
        scripted.gate.set()
        await ended(database, batch_id)


async def test_a_slot_that_rests_has_no_time_that_could_be_over(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(database, 3)
    async with working(database, scripted) as worker:

        async def none_has() -> bool:
            return all(slot.until is None for slot in slots(worker))

        await ended(database, batch_id)
        await eventually(none_has)
        assert slots(worker)


async def test_what_nothing_is_company_for_is_recorded_at_once(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of what runs, and what runs alone."""
    monkeypatch.setattr(recorder, "LINGER_SECONDS", 1000)
    alone, some = await make_batch(database, 1), await make_batch(database, 100)
    gated = await make_batch(database, script({"do": "gate"}))
    async with working(database, scripted):
        await at_gate(scripted, 1)
        scripted.gate.set()
        await ended(database, alone, some, gated)
