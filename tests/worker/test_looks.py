"""When a worker looks for items again: at once for what is new or may start since, and not where nothing can be."""

from typing import Any

import pytest

from factories import TENANT, make_batch, sql, violations
from gristmill.db import Database
from gristmill.domain.news import News
from gristmill.domain.outcomes import ItemError, Outcome, Retry
from gristmill.processors.base import Processor
from gristmill.store import claims, transitions
from gristmill.store.claims import Claim
from gristmill.store.spans import SUSPECT_LOSSES
from gristmill.worker import Worker
from gristmill.worker.circuits import Circuits
from gristmill.worker.upkeep import Upkeep
from mill import Scripted, at_gate, ended, eventually, script, working


class Plain(Scripted):
    """Claimed by one statement, as what has no chats is."""

    history_id = Processor.history_id


@pytest.fixture
def plain() -> Plain:
    return Plain()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each claim has taken."""
    taken: list[int] = []
    really = claims.claim

    async def noted(*given: Any, **more: Any) -> Claim:
        claim = await really(*given, **more)
        taken.append(claim.taken)
        return claim

    monkeypatch.setattr(claims, "claim", noted)
    return taken


async def dry(worker: Worker) -> None:
    async def is_dry() -> bool:
        return worker._items.is_dry

    await eventually(is_dry)


async def dry_after_a_claim_in_full(worker: Worker) -> None:
    async def is_dry() -> bool:
        worker._items.news.set()
        return worker._items.is_dry

    await eventually(is_dry)


async def test_what_ends_while_nothing_else_waits_asks_for_no_claim(
    database: Database, plain: Plain, looks: list[int]
) -> None:
    async with working(database, plain, concurrency=4, poll_seconds=3600.0) as worker:
        await dry(worker)
        looks.clear()
        first = await make_batch(database, script({"do": "gate"}))
        worker.wake()
        await at_gate(plain, 1)
        await dry(worker)
        plain.gate.set()
        await ended(database, first)
        plain.gate.clear()
        second = await make_batch(database, script({"do": "gate"}))
        worker.wake()
        await at_gate(plain, 1)
        await dry(worker)
        assert looks == [1, 0, 1, 0]
        plain.gate.set()
        await ended(database, second)


async def test_what_a_batch_may_not_run_at_once_starts_as_soon_as_the_last_is_recorded(
    database: Database, plain: Plain
) -> None:
    batch_id = await make_batch(database, script(*[{"do": "succeed"}] * 5), max_concurrency=1)
    async with working(database, plain, concurrency=4, poll_seconds=3600.0):
        await ended(database, batch_id)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_goes_on_with_a_chat_starts_as_soon_as_the_last_of_another_batch_is_recorded(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """The other batch has ended by then: nothing of its own could start. If it was cancelled, its item asks to be run again."""
    monkeypatch.setattr(Upkeep, "sweep", never)
    first = await make_batch(database, script({"do": "gate", "history_id": 5}))
    if cancelled:
        monkeypatch.setattr(Scripted, "_wait_at_gate", wait_and_ask_for_another)
    async with working(database, scripted, concurrency=4, poll_seconds=3600.0) as worker:
        await at_gate(scripted, 1)
        second = await make_batch(database, script({"do": "succeed", "history_id": 5}))
        worker.wake()

        async def parked() -> bool:
            laid = "SELECT available_at = 'infinity' FROM span WHERE batch_id = $1"
            return await sql(database, laid, second) == [True]

        await eventually(parked)
        if cancelled:
            async with database.transaction() as tx:
                await transitions.cancel(tx, TENANT, first)
        await dry_after_a_claim_in_full(worker)
        scripted.gate.set()
        await ended(database, first, second)
    assert await violations(database) == []


async def never(_: Upkeep) -> int:
    return 0


async def wait_and_ask_for_another(scripted: Scripted) -> Outcome:
    scripted.at_gate += 1
    await scripted.gate.wait()
    return Retry(ItemError(500, "scripted", "as asked", retryable=True), delay_seconds=0.0)


async def test_a_suspect_starts_as_soon_as_what_kept_it_waiting_is_recorded(
    database: Database, plain: Plain
) -> None:
    async with working(database, plain, concurrency=4, poll_seconds=3600.0) as worker:
        await dry(worker)
        first = await make_batch(database, script({"do": "gate"}))
        worker.wake()
        await at_gate(plain, 1)
        await dry(worker)
        suspect = await make_batch(database, script({"do": "succeed"}))
        await sql(database, "UPDATE span SET losses = $2 WHERE batch_id = $1", suspect, SUSPECT_LOSSES)
        worker._items._isolation._next_at = 0.0
        worker._items.news.set()

        async def is_known() -> bool:
            return not worker._items._isolation.is_idle

        await eventually(is_known)
        plain.gate.set()
        await ended(database, first, suspect)


class Small(Plain):
    name = "small"
    uses_parser = True


@pytest.mark.parametrize("circuit", [None, "model"])
async def test_a_slot_that_was_not_free_for_its_processor_or_circuit_asks_for_a_claim_once_it_is(
    database: Database, plain: Plain, looks: list[int], monkeypatch: pytest.MonkeyPatch, circuit: str | None
) -> None:
    """Before it is recorded: something else runs, that it waits for."""
    small = Small()
    monkeypatch.setattr("gristmill.worker.recorder.LINGER_SECONDS", 1000)
    if circuit is None:
        monkeypatch.setattr("gristmill.worker.ITEMS_PER_CHILD", 1)
        monkeypatch.setattr("gristmill.worker.default_children", lambda: 1)
    else:
        monkeypatch.setattr(
            Circuits, "held", lambda *_: [(TENANT, circuit, max(0, 1 - sum(looks)) + small.gate.is_set())]
        )
    async with working(database, plain, small, concurrency=4, poll_seconds=3600.0) as worker:
        await make_batch(database, script({"do": "gate"}))
        worker.wake()
        await at_gate(plain, 1)
        await make_batch(
            database, script({"do": "gate"}, {"do": "succeed"}), processor="small", circuit=circuit
        )
        looks.clear()
        worker.wake()

        async def one_runs_and_no_other_may() -> bool:
            return sum(looks) == 1 and looks[-1] == 0

        await eventually(one_runs_and_no_other_may)
        await at_gate(small, 1)
        small.gate.set()

        async def both_ran() -> bool:
            return small.runs.total() == 2

        await eventually(both_ran)
        plain.gate.set()


async def test_that_a_file_is_to_be_read_asks_for_no_claim_and_that_it_has_been_read_does(
    database: Database, plain: Plain, looks: list[int]
) -> None:
    async with working(database, plain, concurrency=4, poll_seconds=3600.0) as worker:
        await dry(worker)
        looks.clear()
        worker.wake(News.FILE)
        assert worker._ingests_news.is_set()
        assert not worker._items.news.is_set()
        batch_id = await make_batch(database, script({"do": "gate"}))
        worker._file_is_read()
        await at_gate(plain, 1)
        await dry(worker)
        assert looks == [1, 0]
        plain.gate.set()
        await ended(database, batch_id)
