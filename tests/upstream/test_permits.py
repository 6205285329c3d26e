"""Permits as one process has them: who is let in, who waits, and what Postgres is asked for."""

import asyncio
import time
from uuid import UUID

import pytest
import uvloop

from gristmill.upstream import permits
from gristmill.upstream.caller import CALLER, Caller
from gristmill.upstream.circuit import HeldOff
from gristmill.upstream.permits import Crowded, Limits, Permit, Permits

BATCH = UUID("00000000-0000-7000-8000-000000000001")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock | None = None, **limits: int) -> Permits:
    one = Permits("model", clock=clock or Clock())
    one.limit(Limits(**limits))
    return one


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_without_a_limit_nobody_waits() -> None:
    one = made()
    for _ in range(1000):
        await one.enter(5)
    assert one.calling == 1000
    assert one.room(0) is None


async def test_no_more_call_than_the_share_and_who_waits_comes_in_turn() -> None:
    one, order = made(in_flight=10), []
    one.share = 2

    async def call(number: int) -> None:
        async with Permit(one):
            order.append(number)
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(*map(call, range(20)))
    assert order == list(range(20))
    assert (one.calling, one.waiting) == (0, 0)


def test_who_waits_asks_on_the_loop_that_workers_have_too() -> None:
    """There a timer that is due at once has no time that could be asked for."""

    async def work() -> None:
        asked = asyncio.Event()
        one = Permits("model", asking=asked.set)
        one.limit(Limits(in_flight=1))
        await asked.wait()
        waiting = [asyncio.create_task(one.enter(0)) for _ in range(3)]  # each asks at once
        await turns()
        one.share = 3
        one.serve()
        await asyncio.gather(*waiting)
        assert one.calling == 3

    uvloop.run(work())


async def test_a_share_of_a_worker_that_others_may_think_dead_is_not_used() -> None:
    trusted = False
    one = Permits("model", trusted=lambda: trusted)
    one.limit(Limits(in_flight=10))
    one.share = 5
    waiting = asyncio.create_task(one.enter(0))
    await turns()
    assert one.calling == 0
    trusted = True
    one.serve()
    await waiting
    assert one.calling == 1


async def test_who_was_let_in_just_before_the_worker_was_stopped_waits_once_more() -> None:
    trusted = True
    one = Permits("model", trusted=lambda: trusted)
    one.limit(Limits(in_flight=1))
    waiting = asyncio.create_task(one.enter(0))
    await turns()
    one.share = 1
    one.serve()  # it has its turn, and does not know yet
    trusted = False
    await turns()
    assert (one.calling, one.waiting) == (0, 1)
    trusted = True
    one.serve()
    await waiting
    assert (one.calling, one.waiting) == (1, 0)


async def test_a_call_that_is_cancelled_while_it_waits_or_just_when_its_turn_comes_leaves_no_trace() -> None:
    one = made(in_flight=1)
    waiting = [asyncio.create_task(one.enter(0)) for _ in range(3)]
    await turns()
    waiting[0].cancel()
    await turns()
    assert one.waiting == 2
    one.share = 1
    one.serve()  # the second has its turn, and does not know yet
    waiting[1].cancel()
    await turns()
    assert one.calling == 1
    await waiting[2]
    one.leave()
    assert (one.calling, one.waiting) == (0, 0)


async def test_who_waits_too_long_for_its_first_call_gives_up_and_its_time_has_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permits, "WAIT_SECONDS", 0.02)
    one = Permits("model")
    one.limit(Limits(in_flight=1))
    moved: list[float] = []
    CALLER.set(Caller((BATCH, 0), postpone=moved.append))
    began = time.monotonic()
    with pytest.raises(Crowded):
        await one.enter(0)
    waited = time.monotonic() - began
    assert one.waiting == 0
    assert moved[0] > 1000  # its time stands still …
    assert 0.01 < sum(moved) <= waited  # … and ends later by what it waited


async def test_the_time_of_an_item_whose_calls_wait_side_by_side_stands_still_once() -> None:
    clock = Clock()
    one = made(clock, in_flight=2)
    moved: list[float] = []
    CALLER.set(Caller((BATCH, 0), postpone=moved.append))
    waiting = [asyncio.create_task(one.enter(0)) for _ in range(2)]
    await turns()
    one.share, clock.now = 1, clock.now + 3
    one.serve()
    await turns()
    one.share, clock.now = 2, clock.now + 4
    one.serve()
    await asyncio.gather(*waiting)
    assert len(moved) == 2
    assert sum(moved) == pytest.approx(7)


async def test_items_of_several_calls_end_whatever_all_their_waits_come_to_and_no_call_is_made_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permits, "WAIT_SECONDS", 0.03)
    one = Permits("model")
    one.limit(Limits(in_flight=2))
    one.share, called = 2, []

    async def item(number: int) -> None:
        caller = Caller((BATCH, number))
        CALLER.set(caller)
        for call in range(6):
            async with Permit(one):
                caller.called = True
                called.append((number, call))
                await asyncio.sleep(0.01)

    async def until_it_has_ended(number: int) -> None:
        while True:
            try:
                return await asyncio.create_task(item(number))
            except Crowded:
                await asyncio.sleep(0.01)

    async with asyncio.timeout(30):
        await asyncio.gather(*map(until_it_has_ended, range(8)))
    assert sorted(called) == [(number, call) for number in range(8) for call in range(6)]


async def test_a_call_of_an_item_that_has_called_comes_before_those_that_have_not_and_waits_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permits, "WAIT_SECONDS", 0.02)
    one = made(in_flight=1)

    def waiting(called: bool) -> asyncio.Task[None]:
        CALLER.set(Caller((BATCH, 0), called=called))
        return asyncio.create_task(one.enter(0))

    first, again = waiting(False), waiting(True)
    with pytest.raises(Crowded):
        await first
    monkeypatch.undo()
    later, second = waiting(False), waiting(True)
    await turns()
    one.share = 1
    for task in (again, second, later):
        one.serve()
        async with asyncio.timeout(5):
            await task
        one.calling -= 1


async def test_who_gives_up_at_the_head_of_the_line_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    one = made(clock, tokens_per_minute=6000)
    one.tokens, one.lapses_at = 10, clock.now + 1
    monkeypatch.setattr(permits, "WAIT_SECONDS", 0.02)
    large = asyncio.create_task(one.enter(50))
    await turns()
    monkeypatch.undo()
    async with asyncio.timeout(5):
        await one.enter(5)
    with pytest.raises(Crowded):
        await large


async def test_a_call_takes_no_more_than_a_minute_brings_and_gives_back_what_nobody_has_answered() -> None:
    clock = Clock()
    one = made(clock, tokens_per_minute=600)
    one.tokens, one.lapses_at = 600, clock.now + 1

    async def refused() -> None:
        async with Permit(one, lambda: (7, 2_000_000_000)):
            assert one.tokens == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await refused()
    assert one.handed_back() == (0, 593, 0)


async def test_a_circuit_that_opens_while_a_call_waits_in_line_costs_nothing() -> None:
    clock = Clock()
    one = made(clock, tokens_per_minute=600, requests_per_minute=60)
    one.tokens, one.requests, one.lapses_at = 100, 5, clock.now + 1

    async def held_off() -> None:
        async with Permit(one, lambda: (7, 50)):
            raise HeldOff

    with pytest.raises(HeldOff):
        await held_off()
    assert one.handed_back() == (5, 100, 0)


async def test_another_limit_of_the_same_name_begins_with_nothing() -> None:
    one = Permits("model", clock=Clock())
    one.limit(Limits(in_flight=10), BATCH)
    one.share, one.overdrawn = 8, 5.0
    one.limit(Limits(in_flight=10), BATCH)
    assert one.share == 8
    one.limit(Limits(in_flight=10), UUID(int=1))
    assert (one.share, one.overdrawn) == (0, 0)


async def test_who_waits_when_the_worker_ends_goes_back_at_once_unless_it_has_called_and_may_again() -> None:
    one = made(in_flight=2)
    one.share = 1
    await one.enter(0)

    def waiting(called: bool) -> asyncio.Task[None]:
        CALLER.set(Caller((BATCH, 0), called=called))
        return asyncio.create_task(one.enter(0))

    first, again = waiting(False), waiting(True)
    await turns()
    one.close()
    with pytest.raises(Crowded) as crowded:
        await first
    assert crowded.value.delay_seconds == 0
    with pytest.raises(Crowded):
        await waiting(False)
    one.leave()
    await again
    one.leave()
    one.share = 0
    with pytest.raises(Crowded):
        await waiting(True)


async def test_who_waits_for_its_first_call_goes_back_when_its_batch_starts_nothing_any_more() -> None:
    one = made(in_flight=2)

    def waiting(batch_id: UUID, *, called: bool = False) -> asyncio.Task[None]:
        CALLER.set(Caller((batch_id, 0), called=called))
        return asyncio.create_task(one.enter(0))

    stopped, begun, other = waiting(BATCH), waiting(BATCH, called=True), waiting(UUID(int=1))
    await turns()
    one.drop({BATCH})
    with pytest.raises(Crowded):
        await stopped
    one.share = 2
    one.serve()
    await begun
    await other


async def test_while_postgres_is_asked_no_more_calls_go_on_than_it_is_told() -> None:
    one = made(in_flight=10)
    one.share = 10
    await one.enter(0)
    one.freeze()
    waiting = asyncio.create_task(one.enter(0))
    await turns()
    assert (one.calling, one.waiting) == (1, 1)
    one.leave()
    await waiting  # one that ends makes room for another
    assert one.calling == 1


async def test_what_was_taken_in_advance_lapses() -> None:
    clock = Clock()
    one = made(clock, requests_per_minute=600)
    one.requests, one.lapses_at = 5, clock.now + 1
    await one.enter(0)
    clock.now += 2
    waiting = asyncio.create_task(one.enter(0))
    await turns()
    assert one.waiting == 1
    assert one.handed_back() == (0, 0, 0)  # and does not come back, either
    waiting.cancel()


async def test_what_was_not_used_goes_back_and_what_was_used_beyond_it_is_owed() -> None:
    clock = Clock()
    one = made(clock, tokens_per_minute=600)
    one.tokens, one.lapses_at = 100, clock.now + 1
    async with Permit(one, lambda: (10, 40)) as permit:
        permit.used(lambda: 70)
    assert one.handed_back() == (0, 60, 30)
    one.overdrawn = 0
    one.tokens = 50
    async with Permit(one, lambda: (10, 40)) as permit:
        permit.used(lambda: 10)
    assert one.handed_back() == (0, 40, 0)


async def test_calls_of_the_time_without_a_limit_tell_what_is_wanted_when_there_is_one() -> None:
    one = made()
    async with Permit(one), Permit(one), Permit(one):
        assert one.calling == 3
    one.limit(Limits(in_flight=100))
    assert (one.calling, one.wanted(64)) == (0, 3)


async def test_who_has_work_waiting_wants_twice_what_it_has_and_who_has_not_what_it_used() -> None:
    one = made(in_flight=100)
    one.share = 4
    waiting = [asyncio.create_task(one.enter(0)) for _ in range(6)]
    await turns()
    assert one.wanted(64) == 12
    assert one.wanted(8) == 8
    one.share = 10
    one.serve()
    await asyncio.gather(*waiting)
    one.asked()
    for _ in waiting:
        one.leave()
    assert one.wanted(64) == 6
    one.asked()
    one.asked()
    assert one.wanted(64) == 0


async def test_no_more_is_claimed_than_may_call_and_some_that_wait() -> None:
    one = made(in_flight=100)
    one.share = 80
    assert one.room(0) == 80 + 20
    assert one.room(30) == 70
    calls = [asyncio.create_task(one.enter(0)) for _ in range(90)]
    await turns()
    assert one.room(0) == 10
    assert one.room(20) == 0
    for task in calls:
        task.cancel()
    assert made(requests_per_minute=600).room(0) == 20
    assert made(requests_per_minute=6).room(0) == 1
