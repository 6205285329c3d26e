"""Events and deliveries as rows: what is queued, claimed, recorded, listed and sent again.

Seed 004, rules 28, 29 and 32.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import orjson
import pytest

from gristmill.domain.deliveries import Attempt, Dead, Delivered, RetryIn
from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.ids import uuid7
from gristmill.store import deliveries

TENANT = UUID(int=1)
URL = "https://receiver.example/hook"
AT = datetime(2026, 11, 22, 10, 45, 0, 123000, tzinfo=UTC)
REFUSED = Attempt(duration_ms=12, status_code=500, response="no")
ACCEPTED = Attempt(duration_ms=12, status_code=204, response="")


async def queue(database, *, batch_id=None, tenant_id=TENANT, event="completed", run=1, url=URL, **changes):
    batch_id = batch_id or uuid7()
    given = {
        "status": event,
        "total": 100,
        "success": 98,
        "failed": 2,
        "at": AT,
        "webhook_events": ("completed", "failed"),
        "webhook_secret": b"ciphertext",
    }
    async with database.transaction() as tx:
        happened = deliveries.Happened(
            batch_id=batch_id,
            tenant_id=tenant_id,
            event=event,
            run=run,
            webhook_url=url,
            **(given | changes),
        )
        await deliveries.queue(tx, [happened])
    return batch_id


async def claim(database, limit=1000, lease_seconds=60):
    async with database.transaction() as tx:
        return await deliveries.claim(tx, limit, lease_seconds)


async def some_are_due(database):
    async with database.connection() as connection:
        return await deliveries.some_are_due(connection)


async def record(database, delivery, attempt, verdict):
    async with database.transaction() as tx:
        return await deliveries.record(tx, delivery, attempt, verdict)


async def listed(database, batch_id, tenant_id=TENANT):
    async with database.connection() as connection:
        return await deliveries.list_for_batch(connection, tenant_id, batch_id)


async def count(database, table):
    async with database.connection() as connection:
        return await connection.fetchval(f"SELECT count(*) FROM {table}")


async def make_due(database):
    """As if the time of every retry and the end of every lease had come."""
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE delivery SET next_at = now(), leased_until = now() - interval '1 ms'"
        )


# --- queue --------------------------------------------------------------------------------------------------


async def test_the_body_of_an_event_suits_every_kind_of_receiver(database):
    batch_id = await queue(database)
    [delivery] = await claim(database)
    body = orjson.loads(delivery.body)
    assert body == {
        "id": delivery.event_id,
        "object": "event",
        "type": "batch.completed",
        "created_at": 1795344300,
        "event": "batch.completed",
        "timestamp": "2026-11-22T10:45:00.123Z",
        "data": {
            "id": str(batch_id),
            "status": "completed",
            "total_requests": 100,
            "completed_requests": 98,
            "failed_requests": 2,
        },
    }
    assert (delivery.url, delivery.secret, delivery.position) == (URL, b"ciphertext", 0)


async def test_an_event_queued_twice_is_written_once(database):
    batch_id = await queue(database)
    await queue(database, batch_id=batch_id, total=7)
    assert await count(database, "event") == await count(database, "delivery") == 1


async def test_each_run_of_a_batch_has_an_event_of_its_own(database):
    batch_id = await queue(database)
    await queue(database, batch_id=batch_id, run=2)
    assert len({delivery.event_id for delivery in await claim(database)}) == 2


@pytest.mark.parametrize(
    ("subscribed", "event", "sent"),
    [
        (("completed", "failed"), "completed", True),
        (("completed", "failed"), "failed", True),
        (("completed", "failed"), "cancelled", False),
        (("cancelled",), "cancelled", True),
        (("cancelled",), "completed", False),
        ((), "completed", False),
        (None, "completed", True),
        (None, "cancelled", False),
    ],
)
async def test_an_event_is_always_written_and_delivered_only_where_it_is_wanted(
    database, subscribed, event, sent
):
    await queue(database, event=event, webhook_events=subscribed)
    assert await count(database, "event") == 1
    assert await count(database, "delivery") == sent


async def test_without_a_webhook_there_is_only_the_event(database):
    await queue(database, url=None, webhook_events=None, webhook_secret=None)
    assert (await count(database, "event"), await count(database, "delivery")) == (1, 0)


# --- claim --------------------------------------------------------------------------------------------------


async def test_a_claimed_delivery_is_nobody_elses_until_its_lease_has_run_out(database):
    await queue(database)
    assert await some_are_due(database)
    [first] = await claim(database)
    assert not await some_are_due(database)
    assert await claim(database) == []
    await make_due(database)
    assert await some_are_due(database)
    [second] = await claim(database)
    assert (second.id, second.event_id, second.body) == (first.id, first.event_id, first.body)


async def test_a_delivery_is_not_claimed_before_its_time(database):
    await queue(database)
    [delivery] = await claim(database)
    await record(database, delivery, REFUSED, RetryIn(3600, 1))
    assert not await some_are_due(database)
    assert await claim(database) == []


async def test_many_senders_at_once_never_get_the_same_delivery(database):
    for number in range(40):
        await queue(database, url=f"https://receiver{number}.example/")
    claimed = [one for many in await asyncio.gather(*(claim(database, 8) for _ in range(8))) for one in many]
    while more := await claim(database, 8):
        claimed += more
    assert Counter(one.id for one in claimed).most_common(1)[0][1] == 1
    assert len(claimed) == 40


async def test_a_sender_does_not_wait_for_what_another_is_just_claiming(database):
    for number in range(2):
        await queue(database, url=f"https://receiver{number}.example/")
    async with asyncio.timeout(5), database.transaction() as tx:
        [first] = await deliveries.claim(tx, 1, 60)
        seen = await claim(database)
        assert len(seen) == 1
        assert seen[0].id != first.id


async def test_no_receiver_gets_more_than_its_share_however_much_waits_for_it(database):
    for _ in range(deliveries.MAX_PER_RECEIVER + 5):
        await queue(database)
    other = await queue(database, url="https://other.example/")
    claimed = await claim(database)
    assert Counter(delivery.url for delivery in claimed) == {
        URL: deliveries.MAX_PER_RECEIVER,
        "https://other.example/": 1,
    }
    assert other in {delivery.batch_id for delivery in claimed}
    assert await claim(database) == []
    await record(database, next(one for one in claimed if one.url == URL), ACCEPTED, Delivered())
    assert [delivery.url for delivery in await claim(database)] == [URL]


async def test_no_tenant_gets_more_than_its_share_however_many_receivers_it_has(database):
    for number in range(deliveries.MAX_PER_TENANT + 5):
        await queue(database, url=f"https://receiver{number}.example/")
    await queue(database, tenant_id=UUID(int=2))
    assert Counter(delivery.tenant_id for delivery in await claim(database)) == {
        TENANT: deliveries.MAX_PER_TENANT,
        UUID(int=2): 1,
    }


async def test_what_receivers_have_in_flight_counts_for_their_tenant(database):
    full, left_over = divmod(deliveries.MAX_PER_TENANT, deliveries.MAX_PER_RECEIVER)
    assert (full, left_over) == (5, 0)
    for number in range(deliveries.MAX_PER_TENANT):
        await queue(database, url=f"https://receiver{number % full}.example/")
    assert len(await claim(database)) == deliveries.MAX_PER_TENANT
    await queue(database, url="https://late.example/")
    assert await claim(database) == []


async def test_the_tenant_with_least_in_flight_comes_first(database):
    for number in range(10):
        await queue(database, url=f"https://receiver{number}.example/")
    assert len(await claim(database, 5)) == 5
    late = await queue(database, tenant_id=UUID(int=2))
    assert [delivery.batch_id for delivery in await claim(database, 1)] == [late]


async def test_two_tenants_with_one_receiver_have_a_share_each(database):
    for tenant in (TENANT, UUID(int=2)):
        for _ in range(deliveries.MAX_PER_RECEIVER + 1):
            await queue(database, tenant_id=tenant)
    assert set(Counter(delivery.tenant_id for delivery in await claim(database)).values()) == {
        deliveries.MAX_PER_RECEIVER
    }


# --- record -------------------------------------------------------------------------------------------------


async def test_an_accepted_delivery_is_delivered_and_not_sent_again(database):
    batch_id = await queue(database)
    [claimed] = await claim(database)
    assert await record(database, claimed, ACCEPTED, Delivered())
    [delivery] = await listed(database, batch_id)
    assert (delivery.status, delivery.attempts, delivery.next_at) == ("delivered", 1, None)
    assert not await some_are_due(database)
    assert delivery.delivered_at is not None
    [attempt] = delivery.log
    assert (attempt.attempt, attempt.status_code, attempt.error, attempt.duration_ms) == (1, 204, None, 12)
    await make_due(database)
    assert await claim(database) == []


async def test_a_refused_delivery_waits_for_its_next_place_in_the_schedule(database):
    batch_id = await queue(database)
    [claimed] = await claim(database)
    assert await record(database, claimed, REFUSED, RetryIn(300, 2))
    [delivery] = await listed(database, batch_id)
    assert (delivery.status, delivery.attempts) == ("pending", 1)
    assert delivery.next_at - delivery.log[0].sent_at == pytest.approx(
        timedelta(seconds=300.012), abs=timedelta(seconds=1)
    )
    await make_due(database)
    assert [one.position for one in await claim(database)] == [2]


async def test_a_sender_that_has_lost_its_lease_changes_nothing(database):
    batch_id = await queue(database)
    [lost] = await claim(database)
    await make_due(database)
    [held] = await claim(database)
    assert not await record(database, lost, REFUSED, Dead("exhausted"))
    [delivery] = await listed(database, batch_id)
    assert (delivery.status, delivery.attempts, delivery.log) == ("pending", 0, ())
    assert await record(database, held, ACCEPTED, Delivered())
    assert not await record(database, held, REFUSED, Dead("exhausted"))
    assert [(one.status, one.attempts) for one in await listed(database, batch_id)] == [("delivered", 1)]


async def test_a_delivery_that_was_deleted_meanwhile_is_a_lost_lease(database):
    await queue(database)
    [claimed] = await claim(database)
    async with database.connection() as connection:
        await connection.execute("DELETE FROM delivery")
    assert not await record(database, claimed, ACCEPTED, Delivered())
    assert await count(database, "delivery_attempt") == 0


# --- redeliver ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "verdict"), [(ACCEPTED, Delivered()), (REFUSED, Dead("gone")), (REFUSED, Dead("exhausted"))]
)
async def test_what_has_ended_is_sent_again_with_the_same_id_and_bytes_from_the_start(
    database, attempt, verdict
):
    await queue(database)
    [first] = await claim(database)
    await record(database, first, attempt, verdict)
    async with database.transaction() as tx:
        delivery = await deliveries.redeliver(tx, TENANT, first.id)
    assert (delivery.status, delivery.delivered_at, delivery.attempts) == ("pending", None, 1)
    [again] = await claim(database)
    assert (again.id, again.event_id, again.body, again.position) == (first.id, first.event_id, first.body, 0)
    await record(database, again, ACCEPTED, Delivered())
    [delivery] = await listed(database, first.batch_id)
    assert [one.attempt for one in delivery.log] == [1, 2]


async def test_a_pending_delivery_is_not_sent_twice_at_once(database):
    batch_id = await queue(database)
    [delivery] = await listed(database, batch_id)
    with pytest.raises(Conflict, match="pending"):
        async with database.transaction() as tx:
            await deliveries.redeliver(tx, TENANT, delivery.id)


async def test_another_tenants_delivery_is_unknown(database):
    batch_id = await queue(database)
    [delivery] = await listed(database, batch_id)
    for tenant_id, delivery_id in [(UUID(int=2), delivery.id), (TENANT, uuid4())]:
        async with database.connection() as connection:
            with pytest.raises(NotFound) as got:
                await deliveries.get(connection, tenant_id, delivery_id)
        with pytest.raises(NotFound) as redelivered:
            async with database.transaction() as tx:
                await deliveries.redeliver(tx, tenant_id, delivery_id)
        assert str(got.value) == str(redelivered.value) == "no such delivery"
    assert await listed(database, batch_id, UUID(int=2)) == []


async def test_the_list_shows_the_newest_attempts_and_no_secret(database, monkeypatch):
    monkeypatch.setattr(deliveries, "ATTEMPTS_SHOWN", 2)
    batch_id = await queue(database, event="completed")
    await queue(database, batch_id=batch_id, event="failed", run=2)
    for _ in range(3):
        for delivery in await claim(database):
            await record(database, delivery, REFUSED, RetryIn(0, 1))
    found = await listed(database, batch_id)
    assert [(one.event, one.attempts) for one in found] == [("completed", 3), ("failed", 3)]
    assert [[attempt.attempt for attempt in one.log] for one in found] == [[2, 3], [2, 3]]
    assert "ciphertext" not in repr(found)
    async with database.connection() as connection:
        assert await deliveries.get(connection, TENANT, found[0].id) == found[0]
