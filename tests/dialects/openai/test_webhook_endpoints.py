"""Webhook endpoints by the official client: kept, changed, tried out, rotated; and the events of batches read by it."""

import time
from collections.abc import AsyncIterator
from typing import Any, Literal
from uuid import UUID

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.webhooks import WebhookEndpointWithSecret

from fakes.receiver import Receiver, reset, status
from served import Served

from .test_openai import at_work, ended, line, make, until, uuid

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}
FOUR: list[Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]] = [
    "batch.completed", "batch.failed", "batch.expired", "batch.cancelled",
]  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def kept(client: AsyncOpenAI, url: str, **more: Any) -> WebhookEndpointWithSecret:
    return await client.webhooks.create(**({"name": "ends", "url": url, "event_types": FOUR} | more))


async def test_an_endpoint_is_created_read_changed_listed_and_deleted(
    mill: Served, client: AsyncOpenAI, receiver: Receiver
) -> None:
    made = await kept(client, receiver.url)
    assert (made.object, made.name, made.url, made.event_types) == (
        "webhook_endpoint", "ends", receiver.url, FOUR,
    )  # fmt: skip
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_…{made.signing_secret[-4:]}"
    read = await client.webhooks.retrieve(made.id)
    assert made.signing_secret not in read.to_json()
    assert read.to_dict() == {
        name: value for name, value in made.to_dict().items() if name != "signing_secret"
    }
    assert made.updated_at is not None
    async with mill.database.connection() as connection:
        earlier = "UPDATE webhook_endpoint SET updated_at = updated_at - interval '1 hour' WHERE id = $1"
        await connection.execute(earlier, UUID(made.id.removeprefix("whe_")))
    unchanged = await client.webhooks.update(made.id, name="ends")
    assert unchanged.updated_at == made.updated_at - 3600
    changed = await client.webhooks.update(made.id, name="other", event_types=["batch.failed"])
    assert (changed.name, changed.url, changed.event_types) == ("other", receiver.url, ["batch.failed"])
    assert (changed.updated_at or 0) >= made.updated_at
    more = [(await kept(client, receiver.url)).id for _ in range(4)]
    assert [one.id async for one in client.webhooks.list(limit=2)] == [*more[::-1], made.id]
    deleted = await client.webhooks.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "webhook_endpoint.deleted", True)
    for gone in (client.webhooks.retrieve, client.webhooks.delete, client.webhooks.rotate_secret):
        with pytest.raises(openai.NotFoundError):
            await gone(made.id)
    assert (await client.webhooks.event_types.list()).data == FOUR


async def test_the_end_of_a_batch_is_told_and_its_signature_holds(
    client: AsyncOpenAI, receiver: Receiver
) -> None:
    endpoint = await kept(client, receiver.url)
    await kept(client, f"{receiver.url}/other", event_types=["batch.failed", "response.completed"])
    batch = await make(client, line("a", "One"))
    await ended(client, batch.id)
    [told] = await receiver.until(1)
    event = client.webhooks.unwrap(told.body, told.headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id) == ("batch.completed", batch.id)
    assert "x-codeer-signature" not in told.headers
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(told.body + b" ", told.headers, secret=endpoint.signing_secret)


async def test_cancelled_failed_and_expired_batches_have_their_own_events(
    mill: Served, client: AsyncOpenAI, receiver: Receiver
) -> None:
    endpoint = await kept(client, receiver.url)
    held = [line(f"{n}", "[hold=told]") for n in range(120)]
    expired = await make(client, *held)
    await at_work(mill, "told")
    cancelled = await make(client, *held)
    failed = await make(client, line("a", "One", url="/v1/embeddings"))
    await client.batches.cancel(cancelled.id)
    async with mill.database.connection() as connection:
        for table, column in (("batch", "id"), ("batch_schedule", "batch_id")):
            statement = f"UPDATE {table} SET deadline_at = now() WHERE {column} = $1"
            await connection.execute(statement, uuid(expired))
    await until(client, expired.id, lambda one: one.status == "finalizing")
    mill.llm.release("told")
    told = await receiver.until(3, timeout_seconds=90)
    events = [client.webhooks.unwrap(one.body, one.headers, secret=endpoint.signing_secret) for one in told]
    assert {event.data.id: event.type for event in events} == {
        cancelled.id: "batch.cancelled", failed.id: "batch.failed", expired.id: "batch.expired",
    }  # fmt: skip


async def test_a_rotated_secret_signs_what_batches_of_before_have_to_tell(
    mill: Served, client: AsyncOpenAI, receiver: Receiver
) -> None:
    endpoint = await kept(client, receiver.url)
    batches = [await make(client, line("a", f"[hold=rotated-{n}]")) for n in range(2)]
    both = await client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    assert both.signing_secret != endpoint.signing_secret
    mill.llm.release("rotated-0")
    [told] = await receiver.until(1)
    for secret in (both.signing_secret, endpoint.signing_secret):
        assert client.webhooks.unwrap(told.body, told.headers, secret=secret).data.id == batches[0].id
    alone = await client.webhooks.rotate_secret(endpoint.id)
    moved = await client.webhooks.update(endpoint.id, url=f"{receiver.url}/moved")
    assert moved.signing_secret_hint == alone.signing_secret_hint
    mill.llm.release("rotated-1")
    [told] = await receiver.until(1, path="/hook/moved")
    assert client.webhooks.unwrap(told.body, told.headers, secret=alone.signing_secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(told.body, told.headers, secret=both.signing_secret)


async def test_a_deleted_endpoint_is_told_nothing_more(
    mill: Served, client: AsyncOpenAI, receiver: Receiver
) -> None:
    gone, stays = await kept(client, f"{receiver.url}/gone"), await kept(client, f"{receiver.url}/stays")
    batch = await make(client, line("a", "[hold=deleted]"))
    await client.webhooks.delete(gone.id)
    mill.llm.release("deleted")
    [told] = await receiver.until(1)
    assert (told.path, client.webhooks.unwrap(told.body, told.headers, secret=stays.signing_secret).data.id) == (
        "/hook/stays", batch.id,
    )  # fmt: skip
    by_url = {one["url"]: one for one in await settled(client, mill, uuid(batch))}
    dead = by_url[f"{receiver.url}/gone"]
    assert (dead["status"], dead["log"][0]["error"]) == ("dead", "endpoint_deleted")
    assert len(receiver.received) == 1


async def settled(client: AsyncOpenAI, mill: Served, batch_id: str) -> list[dict[str, Any]]:
    """Deliveries of a batch, once none is pending."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        answer = await mill.client.get(
            f"/api/v1/batches/{batch_id}/deliveries", headers={"x-api-key": client.api_key}
        )
        found: list[dict[str, Any]] = answer.json()["data"]
        if all(one["status"] != "pending" for one in found):
            return found
    raise AssertionError("a delivery is pending still")


async def test_a_sample_is_sent_at_once_and_its_answer_is_told(
    client: AsyncOpenAI, receiver: Receiver
) -> None:
    endpoint = await kept(client, receiver.url)
    receiver.behave(status(503), reset())
    result = await client.webhooks.test(endpoint.id, event_type="batch.expired")
    assert (result.status_code, result.success, result.event_type) == (503, True, "batch.expired")
    [told] = receiver.received
    assert (
        client.webhooks.unwrap(told.body, told.headers, secret=endpoint.signing_secret).type
        == "batch.expired"
    )
    with pytest.raises(openai.BadRequestError, match="has not answered"):
        await client.webhooks.test(endpoint.id, event_type="batch.failed")
    with pytest.raises(openai.BadRequestError):
        await client.webhooks.test(endpoint.id, event_type="video.completed")


async def test_what_is_no_endpoint_and_whose_it_is_not_is_refused(mill: Served, client: AsyncOpenAI) -> None:
    for wrong in (
        {"url": "ftp://example.com"}, {"name": ""}, {"name": "x" * 257}, {"event_types": []},
        {"event_types": ["video.completed"]}, {"event_types": ["batch.completed", "a b"]}, {"url": 5},
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError):
            await kept(client, **({"url": "https://example.com/hook"} | wrong))
    assert [one async for one in client.webhooks.list()] == []
    made = await kept(client, "https://example.com/hook")
    other = client.with_options(api_key=await mill.key())
    assert [one async for one in other.webhooks.list()] == []
    for foreign in (other.webhooks.retrieve, other.webhooks.delete, other.webhooks.update):
        with pytest.raises(openai.NotFoundError):
            await foreign(made.id)
    headers = {"x-api-key": client.api_key}
    for content in (b"{", b"[]", b"\xff", b'{"keep_old_secret_active_for_24_hours": "maybe"}'):
        path = f"/v1/webhook_endpoints/{made.id}/rotate_secret"
        assert (await mill.client.post(path, headers=headers | JSON, content=content)).status_code == 400
    theirs = f"whc-{UUID(made.id.removeprefix('whe_'))}"  # as LlamaCloud would call it
    for method in ("GET", "PUT", "DELETE"):
        path = f"/api/v1/beta/webhook-configs/{theirs}"
        assert (await mill.client.request(method, path, headers=headers, json={})).status_code == 404
    assert (await mill.client.get("/api/v1/beta/webhook-configs", headers=headers)).json() == []
    for _ in range(19):
        await kept(client, "https://example.com/hook")
    with pytest.raises(openai.ConflictError) as full:
        await kept(client, "https://example.com/hook")
    assert full.value.response.headers["x-should-retry"] == "false"
    weak = client.with_options(api_key=await mill.key("batches:read"))
    with pytest.raises(openai.PermissionDeniedError):
        await weak.webhooks.list()
