"""`created`, `started`, `paused`, `resumed`: told where they are wanted, once for each time they happen."""

import asyncio
from typing import Any
from uuid import UUID

import orjson

from factories import (
    TENANT,
    blocked,
    claim,
    drain,
    in_chats,
    lose,
    make_batch,
    make_worker,
    record,
    sql,
    success,
    sweep,
    turn,
)
from gristmill.db import Database
from gristmill.domain.errors import Conflict
from gristmill.domain.webhooks import Form, Hook, Wire
from gristmill.store import claims, retries, transitions
from gristmill.store.new_batches import NewWebhook
from gristmill.store.recording import Flush

URL = "https://receiver.example/hook"
EVERY = ("created", "started", "paused", "resumed", "completed", "cancelled")


def hook(*events: str) -> NewWebhook:
    return NewWebhook(URL, events)


async def told(database: Database, batch_id: UUID) -> list[tuple[Any, ...]]:
    """What is on its way: event, run, occurrence, and the status in the body, in the order of their making."""
    rows = await sql(
        database,
        "SELECT e.type, e.run, e.occurrence, coalesce(d.body, e.body) FROM delivery d JOIN event e ON e.id = d.event_id "
        "WHERE d.batch_id = $1 ORDER BY e.created_at, d.id",
        batch_id,
    )
    return [(*row[:3], orjson.loads(row[3])["data"]["status"]) for row in rows]


async def test_a_whole_life_is_told_in_order_with_the_status_of_its_moment(database: Database) -> None:
    batch_id = await make_batch(database, 2, webhook=hook(*EVERY))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    for _ in range(2):
        await turn(database, transitions.pause, batch_id)
        await turn(database, transitions.resume, batch_id)
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 0)]))
    await drain(database, worker)
    assert await told(database, batch_id) == [
        ("created", 1, 1, "in_progress"),
        ("started", 1, 1, "in_progress"),
        ("paused", 1, 1, "paused"),
        ("resumed", 1, 1, "in_progress"),
        ("paused", 1, 2, "paused"),
        ("resumed", 1, 2, "in_progress"),
        ("completed", 1, 1, "completed"),
    ]
    ids = await sql(database, "SELECT id FROM event WHERE batch_id = $1", batch_id)
    assert len(set(ids)) == 7


async def test_what_nobody_asked_for_is_not_written(database: Database) -> None:
    batch_id = await make_batch(database, 1, webhook=hook("completed"))
    bare = await make_batch(database, 1)
    worker = await make_worker(database)
    for one in (batch_id, bare):
        await turn(database, transitions.pause, one)
        await turn(database, transitions.resume, one)
    await drain(database, worker)
    assert sorted(await sql(database, "SELECT type FROM event")) == ["completed", "completed"]


async def test_started_is_told_once_a_run_however_many_claims_losses_and_pauses_follow(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 4, webhook=hook("started"))
    worker = await make_worker(database)
    await claim(database, worker, 1)
    await lose(database, worker)
    worker = await make_worker(database)
    await turn(database, transitions.pause, batch_id)
    await turn(database, transitions.resume, batch_id)
    await claim(database, worker, 1)
    await turn(database, transitions.cancel, batch_id)
    assert await told(database, batch_id) == [("started", 1, 1, "in_progress")]


async def test_a_retry_starts_again(database: Database) -> None:
    batch_id = await make_batch(database, 2, webhook=hook("started", "cancelled"))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await turn(database, transitions.cancel, batch_id)
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 0)]))
    await sweep(database)
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)
    assert [one[:2] for one in await told(database, batch_id)] == [("started", 1), ("cancelled", 1)]
    await drain(database, worker)
    assert [one[:2] for one in await told(database, batch_id)][2:] == [("started", 2)]


async def test_a_batch_that_starts_paused_is_not_told_as_paused_nor_started_before_it_is_resumed(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 1, webhook=hook(*EVERY), start_paused=True)
    worker = await make_worker(database)
    assert await claim(database, worker, 1) == []
    assert [one[0] for one in await told(database, batch_id)] == ["created"]
    await turn(database, transitions.resume, batch_id)
    await drain(database, worker)
    assert [one[0] for one in await told(database, batch_id)] == [
        "created", "resumed", "started", "completed",
    ]  # fmt: skip


async def test_a_claim_that_is_rolled_back_has_told_nothing_and_the_next_one_does(database: Database) -> None:
    batch_id = await make_batch(database, 2, webhook=hook("started"))
    worker = await make_worker(database)
    connection = await database.connect()
    transaction = connection.transaction()
    await transaction.start()
    await claims.claim(connection, worker, {"noop": 1})
    await transaction.rollback()
    assert await told(database, batch_id) == []
    assert await claim(database, worker, 1)
    assert len(await told(database, batch_id)) == 1
    await connection.close()


async def test_two_pauses_at_once_tell_of_one(database: Database) -> None:
    batch_id = await make_batch(database, 1, webhook=hook("paused"))
    async with database.transaction() as tx:
        await transitions.pause(tx, TENANT, batch_id)
        second = asyncio.create_task(turn(database, transitions.pause, batch_id))
        await blocked(database, second)
    assert isinstance((await asyncio.gather(second, return_exceptions=True))[0], Conflict)
    assert await told(database, batch_id) == [("paused", 1, 1, "paused")]


async def test_requests_that_wait_for_their_chat_have_been_taken_up_too(database: Database) -> None:
    busy = await make_batch(database, in_chats(1))
    worker = await make_worker(database)
    assert await claim(database, worker, 1)
    batch_id = await make_batch(database, in_chats(1), webhook=hook("started"))
    assert await claim(database, worker, 1) == []
    assert await told(database, batch_id) == [("started", 1, 1, "in_progress")]
    assert await told(database, busy) == []


# --- the list -------------------------------------------------------------------------------------------------


async def test_each_webhook_of_the_list_is_told_what_it_asked_for(database: Database) -> None:
    listed = (
        Hook("https://a.example/", ("paused",)),
        Hook("https://b.example/", ("completed", "paused")),
        Hook("https://c.example/", ("cancelled",)),
    )
    batch_id = await make_batch(database, 1, webhook=hook("completed"), webhooks=listed)
    await turn(database, transitions.pause, batch_id)
    await turn(database, transitions.resume, batch_id)
    await drain(database, await make_worker(database))
    rows = await sql(
        database,
        "SELECT e.type, d.url, d.hook FROM delivery d JOIN event e ON e.id = d.event_id WHERE d.batch_id = $1 "
        "ORDER BY e.created_at, d.url",
        batch_id,
    )
    assert rows == [
        ("paused", "https://a.example/", 0),
        ("paused", "https://b.example/", 1),
        ("completed", "https://b.example/", 1),
        ("completed", URL, None),
    ]


async def test_a_dialects_webhook_gets_its_own_words_and_only_what_it_has_words_for(
    database: Database,
) -> None:
    words = {"started": ("batch.running", "RUNNING"), "completed": ("batch.success", "COMPLETED")}
    listed = tuple(Hook(f"https://{form}.example/", EVERY, wire=Wire(form, words, "bat-1")) for form in Form)
    batch_id = await make_batch(database, 1, webhooks=listed)
    await turn(database, transitions.pause, batch_id)
    await turn(database, transitions.resume, batch_id)
    await drain(database, await make_worker(database))
    rows = await sql(database, "SELECT url, body FROM delivery WHERE batch_id = $1 ORDER BY id", batch_id)
    bodies = {(url.split("/")[2], n // 3): orjson.loads(body) for n, (url, body) in enumerate(rows)}
    assert len(bodies) == len(rows) == 6
    event, flat = bodies["event.example", 1], bodies["flat.example", 1]
    assert (event["type"], event["event"], event["data"]["status"]) == ("batch.success",) * 2 + ("COMPLETED",)
    assert flat["event_type"] == "batch.success"
    assert flat["data"] == event["data"] == {
        "id": "bat-1", "status": "COMPLETED", "total_requests": 1, "completed_requests": 1, "failed_requests": 0,
    }  # fmt: skip
    assert (flat["event_id"], flat["timestamp"]) == (event["id"], event["created_at"])
    assert orjson.loads(bodies["quoted.example", 1]) == flat
    assert bodies["flat.example", 0]["data"]["status"] == "RUNNING"
