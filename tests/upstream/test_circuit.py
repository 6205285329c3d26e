"""When a circuit opens and closes, with a clock of the test's."""

import asyncio
from uuid import UUID

import pytest

from gristmill.upstream.circuit import CALLER, Call, Caller, Circuit, HeldOff, Opening
from gristmill.upstream.limit import AdaptiveLimit

BATCH = UUID(int=7)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def circuit() -> Circuit:
    return made(10)


def made(faults: int) -> Circuit:
    key, limit = (UUID(int=1), "model"), AdaptiveLimit(64)
    return Circuit(key, faults=faults, patience_seconds=600, limit=limit, changed=lambda: None, clock=Clock())


def storm(circuit: Circuit) -> None:
    for number in range(10):
        fail(circuit, number)
    told(circuit)


def probe_fails(circuit: Circuit) -> None:
    began = circuit.begin(caller(50, probing=True))
    circuit.end()
    circuit.failed(began, caller(50, probing=True), "down")


def caller(number: int, *, probing: bool = False) -> Caller:
    return Caller((BATCH, number), probing)


def fail(circuit: Circuit, number: int, hold_seconds: float | None = None) -> None:
    began = circuit.begin(caller(number))
    circuit.end()
    circuit.failed(began, caller(number), "down", hold_seconds)


def answer(circuit: Circuit, *, probing: bool = False) -> None:
    began = circuit.begin(caller(0, probing=probing))
    circuit.end()
    circuit.answered(began)


def later(circuit: Circuit, seconds: float) -> None:
    assert isinstance(circuit.clock, Clock)
    circuit.clock.now += seconds


def told(circuit: Circuit) -> None:
    """Postgres has been told."""
    circuit.news = None


def test_it_opens_when_so_many_items_in_a_row_have_failed(circuit: Circuit) -> None:
    for number in range(9):
        fail(circuit, number)
    assert not circuit.is_open
    assert circuit.in_doubt
    fail(circuit, 9)
    assert circuit.is_open
    assert circuit.news == Opening("down", None)


def test_an_answer_between_begins_the_count_anew(circuit: Circuit) -> None:
    for number in range(9):
        fail(circuit, number)
    answer(circuit)
    for number in range(100, 109):
        fail(circuit, number)
    assert not circuit.is_open


def test_one_item_that_fails_again_and_again_is_no_storm(circuit: Circuit) -> None:
    for _ in range(100):
        fail(circuit, 5)
    assert not circuit.is_open


def test_a_burst_of_refusals_is_no_storm_while_as_many_calls_may_still_succeed(circuit: Circuit) -> None:
    for _ in range(40):
        circuit.begin(caller(1000))
    for number in range(39):
        fail(circuit, number)
    assert not circuit.is_open
    fail(circuit, 39)
    assert circuit.is_open


def test_without_a_number_of_faults_no_storm_opens_it() -> None:
    circuit = made(0)
    for number in range(500):
        fail(circuit, number)
    assert not circuit.is_open
    assert not circuit.in_doubt


def test_who_asks_to_be_left_alone_is_at_once_and_for_so_long(circuit: Circuit) -> None:
    fail(circuit, 1, hold_seconds=7.0)
    assert circuit.is_open
    assert isinstance(circuit.news, Opening)
    assert circuit.news.until is not None
    assert 6.9 < circuit.news.until - circuit.clock() <= 7.0


def test_the_longest_of_what_is_asked_holds(circuit: Circuit) -> None:
    calls = [circuit.begin(caller(number)) for number in range(3)]
    for number, (began, seconds) in enumerate(zip(calls, (5.0, 9.0, 2.0), strict=True)):
        circuit.failed(began, caller(number), "throttled", seconds)
    assert isinstance(circuit.news, Opening)
    assert circuit.news.until is not None
    assert 8.9 < circuit.news.until - circuit.clock() < 9.0


def test_while_it_is_open_nothing_calls_but_a_probe(circuit: Circuit) -> None:
    fail(circuit, 1, hold_seconds=7.0)
    for who in (None, caller(2)):
        with pytest.raises(HeldOff):
            circuit.begin(who)
    circuit.begin(caller(3, probing=True))


def test_the_answer_to_a_probe_closes_it(circuit: Circuit) -> None:
    fail(circuit, 1, hold_seconds=7.0)
    told(circuit)
    answer(circuit, probing=True)
    assert not circuit.is_open
    assert circuit.news == "closed"


def test_an_answer_to_what_was_asked_before_it_opened_does_not_close_it(circuit: Circuit) -> None:
    began = circuit.begin(caller(1))
    fail(circuit, 2, hold_seconds=7.0)
    circuit.answered(began)
    assert circuit.is_open


def test_what_was_asked_before_it_closed_cannot_open_it_again(circuit: Circuit) -> None:
    hanging = [circuit.begin(caller(number)) for number in range(30)]
    fail(circuit, 99, hold_seconds=7.0)
    answer(circuit, probing=True)
    for number, began in enumerate(hanging):
        circuit.end()
        circuit.failed(began, caller(number), "down")
    assert not circuit.is_open


@pytest.mark.parametrize("waits", [True, False])
def test_an_item_is_excused_that_ran_while_all_were_to_wait(circuit: Circuit, waits: bool) -> None:
    before = circuit.clock()
    fail(circuit, 1, hold_seconds=7.0)
    assert circuit.excuses(before, waits=waits)
    answer(circuit, probing=True)
    assert circuit.excuses(before, waits=waits)
    assert not circuit.excuses(circuit.clock(), waits=waits)


def test_a_storm_is_an_outage_once_a_probe_has_failed_too(circuit: Circuit) -> None:
    before = circuit.clock()
    storm(circuit)
    assert circuit.is_new
    assert not circuit.excuses(before, waits=False)
    assert circuit.excuses(before, waits=True)
    probe_fails(circuit)
    assert not circuit.is_new
    assert circuit.excuses(before, waits=False)
    answer(circuit, probing=True)
    assert circuit.excuses(before, waits=False)


def test_a_storm_was_the_items_own_if_the_first_probe_is_answered(circuit: Circuit) -> None:
    before = circuit.clock()
    storm(circuit)
    answer(circuit, probing=True)
    assert not circuit.in_doubt
    assert not circuit.excuses(before, waits=False)


def test_a_storm_is_an_outage_if_no_probe_comes_back_for_seconds(circuit: Circuit) -> None:
    before = circuit.clock()
    storm(circuit)
    later(circuit, 5.1)
    assert not circuit.is_new
    assert circuit.excuses(before, waits=False)


def test_after_the_patience_an_outage_excuses_no_more_errors(circuit: Circuit) -> None:
    before = circuit.clock()
    storm(circuit)
    probe_fails(circuit)
    later(circuit, 601)
    assert not circuit.excuses(before, waits=False)
    assert circuit.excuses(before, waits=True)
    answer(circuit, probing=True)
    assert not circuit.excuses(before, waits=False)


def test_items_that_have_failed_before_make_no_storm_unless_they_cannot_be_to_blame(circuit: Circuit) -> None:
    for waits in (False, True):
        for number in range(10):
            one = Caller((BATCH, number), again=True)
            began = circuit.begin(one)
            circuit.end()
            circuit.failed(began, one, "down", waits=waits)
        assert circuit.is_open == waits


def test_a_claim_that_saw_it_closed_closes_it_unless_it_was_opened_meanwhile(circuit: Circuit) -> None:
    before = circuit.clock()
    fail(circuit, 1, hold_seconds=7.0)
    after = circuit.clock()
    assert not circuit.admits(False, after)  # Postgres does not know yet
    assert circuit.slots == 0
    told(circuit)
    assert not circuit.admits(False, before)
    assert circuit.is_open
    assert circuit.admits(False, after)
    assert not circuit.is_open


def test_a_probe_for_another_process_opens_it_here_and_its_answer_closes_it(circuit: Circuit) -> None:
    assert circuit.admits(True, circuit.clock())
    assert circuit.is_open
    assert circuit.news is None
    answer(circuit, probing=True)
    assert circuit.news == "closed"


def test_a_probe_that_calls_nobody_lets_the_next_one_come(circuit: Circuit) -> None:
    circuit.admits(True, circuit.clock())
    probe = caller(1, probing=True)
    probe.called = True
    circuit.probe_ended(probe)
    assert circuit.news is None
    circuit.probe_ended(caller(2, probing=True))
    assert circuit.news == "unprobed"


async def test_a_call_that_is_cut_off_says_so_and_counts_as_ended(circuit: Circuit) -> None:
    item = caller(1)

    async def hanging() -> None:
        CALLER.set(item)
        with Call(circuit):
            await asyncio.Event().wait()

    task = asyncio.create_task(hanging())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert item.called
    assert item.cut_off
    for number in range(10):  # no call is in flight any more, so ten are enough
        fail(circuit, number)
    assert circuit.is_open


def test_what_failed_is_excused_if_the_probe_of_another_process_fails_too(circuit: Circuit) -> None:
    """The probe is one of all processes: whoever did not have it hears of it."""
    began = circuit.clock()
    storm(circuit)
    assert not circuit.excuses(began, waits=False)
    circuit.opened_elsewhere()
    assert not circuit.excuses(began, waits=False)
    circuit.opened_elsewhere(confirmed=True)
    circuit.closed_elsewhere()
    assert circuit.excuses(began, waits=False)


def test_a_failed_probe_is_told_to_the_others_once(circuit: Circuit) -> None:
    storm(circuit)
    probe_fails(circuit)
    assert circuit.news == "confirmed"
    told(circuit)
    probe_fails(circuit)
    assert circuit.news is None
