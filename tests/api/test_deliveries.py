"""Deliveries of a batch's events: listed with their attempts, sent again on request."""

from uuid import UUID

import pytest

import factories
from gristmill.db import Database
from gristmill.domain.deliveries import Attempt, Dead
from gristmill.store import deliveries
from gristmill.store.new_batches import NewWebhook
from service import Caller, code_of


async def dead(caller: Caller, database: Database) -> tuple[UUID, str]:
    """A batch that has ended, and the id of its delivery, which the receiver did not want."""
    webhook = NewWebhook("https://a.example.com/hook", ("completed",))
    batch_id = await factories.make_batch(database, 1, tenant_id=caller.tenant_id, webhook=webhook)
    await factories.drain(database, await factories.make_worker(database))
    async with database.transaction() as tx:
        [to_send] = await deliveries.claim(tx, 1, 30)
        attempt = Attempt(duration_ms=12, status_code=410, error=None, response="gone")
        assert await deliveries.record(tx, to_send, attempt, Dead("gone"))
    return batch_id, str(to_send.id)


async def test_a_delivery_shows_its_event_and_attempts(caller: Caller, database: Database) -> None:
    batch_id, delivery_id = await dead(caller, database)
    answer = (await caller.get(f"/api/v1/batches/{batch_id}/deliveries")).json()
    assert answer["pagination"]["total_records"] == 1
    [shown] = answer["data"]
    assert (shown["id"], shown["event"], shown["status"]) == (delivery_id, "batch.completed", "dead")
    assert shown["event_id"].startswith("evt_")
    assert (shown["attempts"], shown["url"]) == (1, "https://a.example.com/hook")
    assert (shown["log"][0]["status_code"], shown["log"][0]["attempt"]) == (410, 1)


async def test_a_dead_delivery_is_sent_again_under_the_same_id(caller: Caller, database: Database) -> None:
    batch_id, delivery_id = await dead(caller, database)
    [before] = await caller.data(f"/api/v1/batches/{batch_id}/deliveries")
    caller.service.woken.clear()
    answer = await caller.post(f"/api/v1/deliveries/{delivery_id}/redeliver")
    assert answer.status_code == 202
    data = answer.json()["data"]
    assert (data["id"], data["event_id"], data["status"]) == (delivery_id, before["event_id"], "pending")
    assert caller.service.woken.is_set()
    refused = await caller.post(f"/api/v1/deliveries/{delivery_id}/redeliver")
    code_of(refused, 409)
    assert "pending" in refused.json()["message"]


async def test_a_batch_without_a_webhook_has_no_deliveries(caller: Caller) -> None:
    batch = await caller.batch(1)
    assert await caller.data(f"/api/v1/batches/{batch['id']}/deliveries") == []


@pytest.mark.parametrize("delivery_id", ["01a20313-7126-7000-b171-15a57bafe5cf", "7", "%00"])
async def test_an_unknown_delivery_is_404(caller: Caller, delivery_id: str) -> None:
    assert code_of(await caller.post(f"/api/v1/deliveries/{delivery_id}/redeliver"), 404) == "not_found"
