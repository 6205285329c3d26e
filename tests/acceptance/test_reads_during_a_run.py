"""What a caller reads while ten thousand requests run and batches are paused, resumed and cancelled at random.

Seed 004, rules 9 (create is atomic), 12 (links), 14 (live counts), 16 (statuses), 17 and 21 (pages during a run).
"""

import asyncio
import random
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from factories import violations
from stranger import BATCHES, TERMINAL, Mill, Stranger, adds_up, until

BATCHES_MADE, PER_BATCH = 10, 1000
TO_CANCEL = 2  # the first ones, so slow that they run until then
NEXT = {
    "in_progress": {"in_progress", "paused", "cancelling", "cancelled", "completed"},
    "paused": {"paused", "in_progress", "cancelling", "cancelled", "completed"},
    "cancelling": {"cancelling", "cancelled"},
    "completed": {"completed"},
    "cancelled": {"cancelled"},
}


class Observer:
    """Reads everything again and again, and holds each read against the one before."""

    def __init__(self, stranger: Stranger) -> None:
        self.stranger = stranger
        self.last: dict[str, dict[str, Any]] = {}
        self.reads = 0
        self.in_midst = 0  # reads of a batch in which something ran

    async def look(self) -> None:
        for batch in await self.stranger.data(f"{BATCHES}?limit=100"):
            self._see(batch)
        for batch_id in list(self.last):
            self._see(await self.stranger.get_batch(batch_id))

    def _see(self, batch: dict[str, Any]) -> None:
        self.reads += 1
        self.in_midst += batch["processing_requests"] > 0
        before = self.last.get(batch["id"], batch)
        assert adds_up(batch), batch
        assert min(batch[name] for name in batch if name.endswith("_requests")) >= 0, batch
        assert batch["status"] in NEXT[before["status"]], (before, batch)
        for name in ("completed_requests", "failed_requests", "cancelled_requests", "progress"):
            assert batch[name] >= before[name], (name, before, batch)
        assert (batch["progress"] == 1.0) == (batch["status"] in TERMINAL), batch
        ended = batch["completed_requests"] + batch["failed_requests"]
        assert (ended == PER_BATCH) == (batch["status"] in TERMINAL), batch
        self.last[batch["id"]] = batch

    @property
    def done(self) -> bool:
        return all(batch["status"] in TERMINAL for batch in self.last.values())


async def _all_pages(stranger: Stranger, link: str, key: str) -> list[Any]:
    """That field of every record, page by page along the links as they are given, which must lead back, too."""
    found, first = [], (await stranger.get(link)).json()
    page, asked = first, link
    while link := page["pagination"]["next_page"]:
        found += [one[key] for one in page["data"]]
        page = (await stranger.get(link)).json()
        back = page["pagination"]["prev_page"]
        assert dict(parse_qsl(urlsplit(back).query)).items() >= dict(parse_qsl(urlsplit(asked).query)).items()
        asked = link
    assert page["pagination"]["total_records"] == first["pagination"]["total_records"]
    return found + [one[key] for one in page["data"]]


async def test_every_read_adds_up_and_pages_hold_every_request_once_in_order(
    mill: Mill, stranger: Stranger
) -> None:
    chance = random.Random(20261122)
    ids = [await _batch(stranger, chance, n) for n in range(BATCHES_MADE)]
    observer = Observer(stranger)
    await observer.look()
    pages_read = 0

    async def observe() -> None:
        while not observer.done:
            await observer.look()

    async def turn_pages() -> None:
        nonlocal pages_read
        while not observer.done:
            link = f"{BATCHES}/{chance.choice(ids)}/results?limit={chance.choice([190, 400, 1000])}"
            assert await _all_pages(stranger, link, "custom_id") == [f"req-{n}" for n in range(PER_BATCH)]
            pages_read += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(observe())
        tasks.create_task(turn_pages())
        tasks.create_task(_disturb(stranger, chance, ids))
    assert observer.in_midst > 20
    assert pages_read > 3
    assert [observer.last[one]["status"] for one in ids] == ["cancelled"] * TO_CANCEL + ["completed"] * (
        BATCHES_MADE - TO_CANCEL
    )
    for batch_id in ids:
        await _ended_as_counted(stranger, observer.last[batch_id])
    assert await violations(mill.database) == []


async def _batch(stranger: Stranger, chance: random.Random, number: int) -> str:
    inputs = [
        {"sleep_seconds": chance.random() / 5, "do": "fail" if chance.random() < 0.05 else "succeed"}
        for _ in range(PER_BATCH)
    ]
    slow = {"max_concurrency": 8} if number < TO_CANCEL else {}
    made = await stranger.scripted(*inputs, max_attempts=1, **slow)
    return str(made["id"])


async def _disturb(stranger: Stranger, chance: random.Random, ids: list[str]) -> None:
    """The slow batches are cancelled somewhere on the way; in the end nothing is left paused."""
    cancels = dict(zip(chance.sample(range(5, 40), TO_CANCEL), ids, strict=False))
    for step in range(60):
        action = chance.choice(["pause", "resume"])
        batch_id = cancels.get(step) or chance.choice(ids)
        answer = await stranger.post(f"{BATCHES}/{batch_id}/{'cancel' if step in cancels else action}")
        assert answer.status_code in (202, 409), answer.text
        await asyncio.sleep(chance.random() / 20)
    for batch_id in ids:
        await stranger.post(f"{BATCHES}/{batch_id}/resume")


async def _ended_as_counted(stranger: Stranger, batch: dict[str, Any]) -> None:
    results = await stranger.results(batch["id"], "?limit=1000")
    codes = [one["error_code"] for one in results]
    assert (codes.count(None), codes.count(499)) == (batch["completed_requests"], batch["cancelled_requests"])
    assert codes.count(500) == batch["failed_requests"] - batch["cancelled_requests"]
    assert all(one["processed_at"] for one in results)


async def test_links_of_a_filtered_list_lead_through_exactly_what_matches(stranger: Stranger) -> None:
    batches = [
        await stranger.scripted({}, name="nightly & daily", metadata={"ümlaut": "a=b&c"}) for _ in range(5)
    ]
    await stranger.scripted({}, name="other")
    for batch in batches:
        await stranger.ended(batch["id"])
    asked = "?limit=2&status=completed&name=nightly%20%26%20daily&metadata.%C3%BCmlaut=a%3Db%26c"
    listed = await _all_pages(stranger, f"{BATCHES}{asked}", "id")
    assert listed == [batch["id"] for batch in reversed(batches)]


async def test_a_create_answers_before_any_request_has_run_and_stores_all_or_nothing(
    stranger: Stranger,
) -> None:
    for _ in range(20):
        made = await stranger.batch(50)  # of the quickest processor there is
        shown = [made[name] for name in ("status", "completed_requests", "failed_requests", "completed_at")]
        assert shown == ["in_progress", 0, 0, None]
        assert (made["processing_requests"], made["pending_requests"]) == (0, 50)
    before = (await stranger.get(BATCHES)).json()["pagination"]["total_records"]
    requests = [{"custom_id": one, "input": {"text": ""}} for one in ("fine", "cannot be \0 stored")]
    refused = await stranger.post(BATCHES, {"processor": "noop", "requests": requests})
    assert refused.status_code == 400, refused.text
    assert (await stranger.get(BATCHES)).json()["pagination"]["total_records"] == before


async def test_a_long_poll_is_answered_when_the_batch_ends(stranger: Stranger) -> None:
    batch = await stranger.scripted({"sleep_seconds": 0.5})
    waited = await stranger.data(f"{BATCHES}/{batch['id']}?wait=60")
    assert waited["status"] == "completed"


async def test_every_batch_tells_how_fast_it_is_and_how_long_it_will_take(stranger: Stranger) -> None:
    inputs: list[dict[str, Any]] = [{}] * 5 + [{"sleep_seconds": 2}] * 2
    batch = await stranger.scripted(*inputs, max_concurrency=1)
    assert (batch["throughput"], batch["eta_seconds"]) == (None, None)
    under_way = await stranger.until(
        batch["id"], lambda one: one["completed_requests"] >= 5 and one["processing_requests"] == 1
    )
    assert (under_way["throughput"] > 0, under_way["eta_seconds"] >= 0) == (True, True)
    assert under_way["waiting_reason"] == "concurrency limit"
    await stranger.act(batch["id"], "pause")
    paused = await stranger.get_batch(batch["id"])
    assert (paused["waiting_reason"], paused["eta_seconds"]) == ("paused", None)
    await stranger.act(batch["id"], "cancel")
    ended = await stranger.ended(batch["id"])
    assert (ended["waiting_reason"], ended["eta_seconds"], ended["throughput"] > 0) == (None, None, True)


async def test_a_request_that_is_to_be_tried_again_tells_when(stranger: Stranger) -> None:
    batch = await stranger.scripted({"retries": 1, "delay_seconds": 600})

    async def look() -> dict[str, Any] | None:
        shown = await stranger.get_batch(batch["id"])
        return shown if shown["waiting_reason"] not in (None, "queued behind other work") else None

    waiting = await until(look)
    assert waiting["waiting_reason"].startswith("retry at 20")
    await stranger.act(batch["id"], "cancel")
    assert (await stranger.ended(batch["id"]))["cancelled_requests"] == 1
