"""Seed 004, rules 28 to 32, where batch, worker, outbox and receiver are one."""

import asyncio
import base64
import runpy
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
import standardwebhooks
import svix.webhooks

from fakes.receiver import Received, Receiver, status
from stranger import BATCHES, Mill, Stranger, until

SEED = runpy.run_path(str(Path(__file__).parent / "seed_004" / "verify_webhook.py"))
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
REQUESTS = [{"custom_id": str(n), "input": {"text": ""}} for n in range(3)]


def _by_the_documentation(received: Received, secret: str) -> None:
    signed = (received.headers["x-codeer-signature"], received.headers["x-codeer-timestamp"])
    assert SEED["verify_webhook"](received.body, *signed, secret)
    assert not SEED["verify_webhook"](received.body + b" ", *signed, secret)


def _by_standardwebhooks(received: Received, secret: str) -> None:
    standardwebhooks.Webhook(secret).verify(received.body, received.headers)


def _by_svix(received: Received, secret: str) -> None:
    svix.webhooks.Webhook(secret).verify(received.body, received.headers)


def _by_openai(received: Received, secret: str) -> None:
    client = openai.OpenAI(api_key="unused", webhook_secret=secret)
    assert client.webhooks.unwrap(received.body, received.headers).type == "batch.completed"


@pytest.mark.parametrize(
    ("secret", "verifiers"),
    [
        (WHSEC, (_by_the_documentation, _by_standardwebhooks, _by_svix, _by_openai)),
        ("your-webhook-secret", (_by_the_documentation, _by_openai)),
    ],
    ids=["whsec", "the documentation's"],
)
async def test_every_verifier_accepts_the_one_delivery_of_a_batch_which_has_ended_by_then(
    stranger: Stranger, receiver: Receiver, secret: str, verifiers: Any
) -> None:
    seen: list[dict[str, Any]] = []

    async def get_the_batch(received: Received, writer: asyncio.StreamWriter) -> None:
        seen.append(await stranger.get_batch(orjson.loads(received.body)["data"]["id"]))
        await status(204)(received, writer)

    receiver.behave(get_the_batch)
    webhook = {"url": receiver.url, "secret": secret}
    batch = await stranger.make(
        processor="scripted",
        requests=[
            {"custom_id": "a", "input": {}},
            {"custom_id": "b", "input": {"do": "fail"}},
            {"custom_id": "c", "input": {}},
        ],
        webhook=webhook,
    )
    [received] = await receiver.until(1)
    for verify in verifiers:
        verify(received, secret)
    body = orjson.loads(received.body)
    assert (body["event"], body["timestamp"][-1]) == ("batch.completed", "Z")
    assert body["data"] == {
        "id": batch["id"],
        "status": "completed",
        "total_requests": 3,
        "completed_requests": 2,
        "failed_requests": 1,
    }
    [delivery] = await _settled(stranger, batch["id"], "delivered")
    assert (delivery["event_id"], delivery["attempts"]) == (received.headers["webhook-id"], 1)
    [at_once] = seen
    assert body["data"].items() <= at_once.items()
    assert at_once["completed_at"] is not None
    assert len(receiver.received) == 1


async def _settled(stranger: Stranger, batch_id: str, wanted: str) -> list[dict[str, Any]]:
    """The deliveries of a batch, once all are in that state."""

    async def look() -> dict[str, Any] | None:
        answer = (await stranger.get(f"{BATCHES}/{batch_id}/deliveries")).json()
        states = {one["status"] for one in answer["data"]}
        return answer if states == {wanted} else None

    deliveries: list[dict[str, Any]] = (await until(look))["data"]
    return deliveries


async def test_an_event_is_only_sent_to_who_subscribed_to_it(stranger: Stranger, receiver: Receiver) -> None:
    made = {}
    for name, events in {"not": ["completed"], "unless": None, "asked": ["cancelled"]}.items():
        webhook = {"url": f"{receiver.url}/{name}"} | ({"events": events} if events else {})
        made[name] = await stranger.make(
            processor="noop", requests=REQUESTS, webhook=webhook, start_paused=True
        )
        await stranger.act(made[name]["id"], "cancel")
    [received] = await receiver.until(1)
    for batch in made.values():
        assert (await stranger.ended(batch["id"]))["status"] == "cancelled"
    assert received.path == "/hook/asked"
    assert not {"webhook-signature", "x-codeer-signature"} & set(received.headers)
    assert received.headers["x-codeer-timestamp"] == received.headers["webhook-timestamp"]
    body = orjson.loads(received.body)
    assert (body["event"], body["data"]["status"]) == ("batch.cancelled", "cancelled")
    assert (body["data"]["completed_requests"], body["data"]["failed_requests"]) == (0, 3)
    for name in ("not", "unless"):
        assert await stranger.data(f"{BATCHES}/{made[name]['id']}/deliveries") == []
    assert len(receiver.received) == 1


async def test_a_receiver_that_is_gone_is_asked_again_only_on_request_and_with_the_same_id(
    stranger: Stranger, receiver: Receiver
) -> None:
    receiver.behave(status(410), status(200))
    batch = await stranger.make(processor="noop", requests=REQUESTS, webhook={"url": receiver.url})
    [dead] = await _settled(stranger, batch["id"], "dead")
    assert (dead["next_at"], dead["log"][0]["status_code"], dead["url"]) == (None, 410, receiver.url)
    assert (await stranger.get_batch(batch["id"]))["status"] == "completed"
    again = await stranger.post(f"/api/v1/deliveries/{dead['id']}/redeliver")
    assert (again.status_code, again.json()["data"]["status"]) == (202, "pending")
    first, second = await receiver.until(2)
    assert (second.headers["webhook-id"], second.body) == (first.headers["webhook-id"], first.body)
    [delivered] = await _settled(stranger, batch["id"], "delivered")
    assert [one["status_code"] for one in delivered["log"]] == [410, 200]


async def test_a_delivery_that_was_given_up_is_listed_and_sent_again_with_the_same_id(
    mill: Mill, stranger: Stranger, receiver: Receiver
) -> None:
    receiver.behave(status(500))
    batch = await stranger.make(processor="noop", requests=REQUESTS, webhook={"url": receiver.url})
    for attempt in range(1, 10):
        delivery = await _tried(stranger, batch["id"], attempt)
        assert delivery["status"] == "pending"
        refused = await stranger.post(f"/api/v1/deliveries/{delivery['id']}/redeliver")
        assert (refused.status_code, "pending" in refused.json()["message"]) == (409, True)
        await _let_the_wait_pass(mill, delivery["id"])
    assert (await _tried(stranger, batch["id"], 10))["status"] == "dead"
    assert (await stranger.get_batch(batch["id"]))["status"] == "completed"
    receiver.behave(status(200))
    assert (await stranger.post(f"/api/v1/deliveries/{delivery['id']}/redeliver")).status_code == 202
    assert len({one.headers["webhook-id"] for one in await receiver.until(11)}) == 1
    [delivered] = await _settled(stranger, batch["id"], "delivered")
    assert [one["attempt"] for one in delivered["log"]] == list(range(1, 12))


async def _tried(stranger: Stranger, batch_id: str, times: int) -> dict[str, Any]:
    """The one delivery of a batch after so many attempts."""

    async def look() -> dict[str, Any] | None:
        deliveries = await stranger.data(f"{BATCHES}/{batch_id}/deliveries")
        return next((one for one in deliveries if one["attempts"] == times), None)

    return await until(look)


async def _let_the_wait_pass(mill: Mill, delivery_id: str) -> None:
    """The schedule is days long, and fixed."""
    async with mill.database.connection() as connection:
        await connection.execute("UPDATE delivery SET next_at = now() WHERE id = $1", delivery_id)
