"""What has been claimed and waits for a slot: in order within a batch, in turns among batches."""

import random
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from gristmill.store.claims import ClaimedItem, Lease
from gristmill.worker.ready import Ready
from gristmill.worker.work import HeldLease, Job, Work

BATCHES = [UUID(int=number) for number in range(3)]
JOB = cast("Job", None)


def put(ready: Ready, batch_id: UUID, first: int, count: int) -> None:
    items = [ClaimedItem(ordinal, f"item-{ordinal}", None, "{}") for ordinal in range(first, first + count)]
    ready.put(JOB, HeldLease(Lease(first, batch_id, 1, 0, datetime.now(UTC), items), count), items)


def place(work: Work) -> tuple[UUID, int]:
    _, held, item = work
    return held.lease.batch_id, item.ordinal


def test_a_few_items_do_not_wait_behind_a_large_batch() -> None:
    ready = Ready()
    put(ready, BATCHES[0], 0, 1000)
    put(ready, BATCHES[1], 0, 3)
    assert ready.next_turn()
    assert [place(work) for work in ready.turn] == [(BATCHES[1], n) for n in range(3)]


def test_three_batches_have_their_turns_in_a_circle() -> None:
    ready = Ready()
    for batch_id in BATCHES:
        put(ready, batch_id, 0, 10)
    turns = []
    for _ in range(9):
        turns.append(place(ready.turn.popleft())[0])
        assert ready.next_turn()
    assert turns == BATCHES * 3


def test_whatever_comes_and_goes_each_item_is_taken_once_and_each_batch_in_its_order() -> None:
    rng, ready = random.Random(1), Ready()
    so_far: dict[UUID, int] = dict.fromkeys(BATCHES, 0)
    order: list[tuple[UUID, int]] = []
    for _ in range(500):
        act = rng.random()
        if act < 0.3:
            batch_id, count = rng.choice(BATCHES), rng.randint(1, 20)
            put(ready, batch_id, so_far[batch_id], count)
            so_far[batch_id] += count
        elif act < 0.5:
            ready.next_turn()
        order += [place(ready.turn.popleft()) for _ in range(min(len(ready.turn), rng.randint(0, 8)))]
        assert len(ready) == sum(so_far.values()) - len(order)
    order += [place(work) for work in ready.taken()]
    assert not ready
    for batch_id, count in so_far.items():
        assert [ordinal for of, ordinal in order if of == batch_id] == list(range(count))
