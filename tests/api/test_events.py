"""GET …/events of batches that have ended or do not: form, ids, resuming, refusals. Live ones: tests/acceptance."""

import asyncio
from typing import Any
from uuid import uuid4

import orjson
import pytest

from factories import all_of, claim, drain, make_batch, make_worker, record, success, sweep, turn
from fakes.sse import Event, parse
from gristmill.api import events as events_api
from gristmill.api import watch
from gristmill.store import batches, endings, retries, transitions
from gristmill.store.feed import BEGINNING
from gristmill.store.recording import Flush
from service import Caller, Service, problems

BATCHES = "/api/v1/batches"


async def ended(service: Service, caller: Caller, items: int = 3, **more: Any) -> str:
    batch_id = await make_batch(service.database, items, tenant_id=caller.tenant_id, **more)
    await drain(service.database, await make_worker(service.database))
    return str(batch_id)


async def follow(caller: Caller, batch_id: str, last: str | None = None) -> list[Event]:
    headers = {"Last-Event-ID": last} if last else {}
    answer = await caller.get(f"{BATCHES}/{batch_id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return parse(answer.content)


async def test_an_ended_batch_tells_its_items_and_its_end(service: Service, caller: Caller) -> None:
    batch_id = await ended(service, caller)
    events = await follow(caller, batch_id)
    assert [one.name for one in events] == ["item", "item", "item", "progress", "status"]
    assert [one.id for one in events] == ["1-1", "1-2", "1-3", None, "1-3.end"]
    assert events[-1].data == await caller.data(f"{BATCHES}/{batch_id}")
    listed = (await caller.get(f"{BATCHES}/{batch_id}/results")).json()["data"]
    assert [one.data for one in events if one.name == "item"] == listed
    assert events[3].data["progress"] == 1.0


async def test_who_comes_again_gets_the_rest_and_after_the_end_nothing(
    service: Service, caller: Caller
) -> None:
    batch_id = await ended(service, caller)
    assert [one.id for one in await follow(caller, batch_id, "1-2") if one.id] == ["1-3", "1-3.end"]
    assert [one.id for one in await follow(caller, batch_id, "1-3") if one.id] == ["1-3.end"]
    over = await caller.get(f"{BATCHES}/{batch_id}/events", headers={"Last-Event-ID": "1-3.end"})
    assert (over.status_code, over.content) == (204, b"")
    by_query = await caller.get(f"{BATCHES}/{batch_id}/events?last_event_id=1-2")
    assert [one.id for one in parse(by_query.content) if one.id] == ["1-3", "1-3.end"]


async def test_who_saw_the_end_of_an_earlier_run_gets_the_next_one(service: Service, caller: Caller) -> None:
    database = service.database
    batch_id = await make_batch(database, 2, tenant_id=caller.tenant_id)
    worker = await make_worker(database)
    leases = await claim(database, worker, 1)
    await turn(database, transitions.cancel, batch_id, caller.tenant_id)
    await record(database, worker, all_of(leases))
    await sweep(database)
    assert [one.id for one in await follow(caller, str(batch_id)) if one.id][-1] == "1-2.end"
    async with database.transaction() as tx:
        await retries.retry(tx, caller.tenant_id, batch_id)
    await drain(database, worker)
    events = await follow(caller, str(batch_id), "1-2.end")
    assert [one.id for one in events if one.id] == ["2-2", "2-2.end"]
    assert events[0].data["custom_id"] == "item-1"


@pytest.mark.parametrize(
    "last", ["x", "1-4", "2-0", "0-1", "1-", "1--1", "-1", "1-1.enD", "1-99999999", "9" * 50, "1-2;"]
)
async def test_an_id_that_the_feed_never_gave_is_refused(service: Service, caller: Caller, last: str) -> None:
    batch_id = await ended(service, caller)
    path = f"{BATCHES}/{batch_id}/events"
    answer = await caller.get(path, headers={"Last-Event-ID": last})
    assert problems(answer) == {"Last-Event-ID": "unknown_event"}


async def test_nobody_follows_what_is_not_theirs(service: Service, caller: Caller, other: Caller) -> None:
    batch_id = await ended(service, caller)
    foreign = await other.get(f"{BATCHES}/{batch_id}/events")
    unknown = await other.get(f"{BATCHES}/{uuid4()}/events")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["message"] == unknown.json()["message"]
    assert (await service.client.get(f"{BATCHES}/{batch_id}/events")).status_code == 401
    assert problems(await caller.get(f"{BATCHES}/{batch_id}/events?page=1")) == {"page": "unknown_parameter"}


async def test_line_breaks_in_a_result_break_no_event(service: Service, caller: Caller) -> None:
    database = service.database
    batch_id = await make_batch(database, 1, tenant_id=caller.tenant_id)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    said = success(lease, 0, output='{\r\n"a":\n\n"b\\nc"}', content="one\ntwo\r\n\r\nthree")
    await record(database, worker, Flush({lease.id: 0}, [said]))
    [item] = [one for one in await follow(caller, str(batch_id)) if one.name == "item"]
    assert item.data["output"] == {"a": "b\nc"}
    assert item.data["response_content"] == "one\ntwo\r\n\r\nthree"


async def test_a_thousand_items_come_in_windows_without_a_seam(service: Service, caller: Caller) -> None:
    batch_id = await ended(service, caller, 1300)
    events = [one for one in await follow(caller, batch_id) if one.name == "item"]
    assert [one.id for one in events] == [f"1-{n}" for n in range(1, 1301)]
    assert {one.data["custom_id"] for one in events} == {f"item-{n}" for n in range(1300)}


async def test_a_batch_whose_source_was_refused_tells_of_its_end_alone(
    service: Service, caller: Caller
) -> None:
    batch_id = await make_batch(service.database, 2, tenant_id=caller.tenant_id)
    async with service.database.transaction() as tx:
        await endings.refuse(tx, batch_id, orjson.dumps({"type": "bad_source", "message": "no"}).decode())
    events = await follow(caller, str(batch_id))
    assert [one.name for one in events] == ["progress", "status"]
    assert events[-1].data["status"] == "failed"


async def test_a_feed_without_news_is_kept_alive_and_a_long_one_is_sent_away(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_api, "KEEP_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(events_api, "LONGEST_SECONDS", 0.6)
    batch_id = await make_batch(service.database, 1, tenant_id=caller.tenant_id)
    answer = await caller.get(f"{BATCHES}/{batch_id}/events")
    assert answer.content.count(b": keep-alive\n\n") >= 1
    assert [one.name for one in parse(answer.content)] == ["status", "progress", "drain"]


async def test_a_server_that_stops_drains_its_feeds(service: Service, caller: Caller) -> None:
    batch_id = await make_batch(service.database, 1, tenant_id=caller.tenant_id)
    service.app.state.parts.draining.set()
    answer = await caller.get(f"{BATCHES}/{batch_id}/events")
    assert [one.name for one in parse(answer.content)] == ["status", "progress", "drain"]


async def test_a_tenant_has_only_so_many_followers_and_those_that_left_make_room(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_FOLLOWERS", 1)
    batch_id = await make_batch(service.database, 1, tenant_id=caller.tenant_id)
    async with service.database.connection() as connection:
        batch = await batches.get(connection, caller.tenant_id, batch_id)
    stop, feed = asyncio.Event(), service.app.state.parts.watch
    following = feed.follow(batch, BEGINNING, stop)
    assert await anext(following) == batch
    refused = await caller.get(f"{BATCHES}/{batch_id}/events")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.json()["error"]["code"] == "too_many_followers"
    await following.aclose()
    await drain(service.database, await make_worker(service.database))
    assert [one.name for one in await follow(caller, str(batch_id))][-1] == "status"
