"""Anthropic's Message Batches by the official client, with only its base_url and key set."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2
import pytest
from anthropic import AnthropicError, AsyncAnthropic
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse

from databases import Server
from served import LLM_KEY, Served, serving

pytestmark = pytest.mark.slow
THREE = {"in_progress", "canceling", "ended"}
OUTCOMES = {"succeeded", "errored", "canceled", "expired"}
PATH = "/v1/messages/batches"


def asked(custom_id: str, text: str, **params: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "params": {"model": "claude-any", "max_tokens": 100, "messages": messages} | params,
    }


async def make(client: AsyncAnthropic, *requests: Any) -> MessageBatch:
    return await client.messages.batches.create(requests=requests)


async def until(client: AsyncAnthropic, batch_id: str, met: Callable[[MessageBatch], bool]) -> MessageBatch:
    """The batch as soon as that holds; no status but the three on the way, and counts that add up."""
    totals = set()
    async with asyncio.timeout(90):
        while True:
            batch = await client.messages.batches.retrieve(batch_id)
            assert batch.processing_status in THREE
            totals.add(sum(batch.request_counts.to_dict().values()))  # type: ignore[arg-type]
            assert len(totals) == 1
            if met(batch):
                return batch
            await asyncio.sleep(0.05)


async def ended(client: AsyncAnthropic, batch_id: str) -> MessageBatch:
    return await until(client, batch_id, lambda batch: batch.processing_status == "ended")


async def results(client: AsyncAnthropic, batch_id: str) -> dict[str, MessageBatchIndividualResponse]:
    found = [one async for one in await client.messages.batches.results(batch_id)]
    assert {one.result.type for one in found} <= OUTCOMES
    return {one.custom_id: one for one in found}


async def canonical(client: AsyncAnthropic, method: str, path: str) -> None:
    headers = {"x-api-key": client.api_key or ""}
    async with httpx2.AsyncClient(base_url=str(client.base_url), trust_env=False, timeout=60) as other:
        answer = await other.request(method, path, headers=headers)
    assert answer.status_code < 300, answer.text


def uuid(batch: MessageBatch) -> str:
    digits = batch.id.removeprefix("msgbatch_")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


async def test_a_whole_life_from_create_to_delete(mill: Served, client: AsyncAnthropic) -> None:
    tool: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
    batch = await make(
        client,
        asked("first", "One", system="Be brief.", temperature=0.5, stop_sequences=["."]),
        asked("second", '[call=weather {"city": "Ulm"}]', tools=[tool]),
        asked("third", "[fault=status:400]"),
        asked("fourth", "Two", top_k=5),
    )
    assert (batch.type, batch.ended_at, batch.results_url, batch.archived_at) == (
        "message_batch", None, None, None,
    )  # fmt: skip
    assert batch.request_counts.processing + batch.request_counts.errored == 4
    assert (batch.expires_at - batch.created_at).total_seconds() == pytest.approx(86_400, abs=1)
    done = await ended(client, batch.id)
    assert done.request_counts.to_dict() == {
        "processing": 0, "succeeded": 2, "errored": 2, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert done.ended_at is not None
    found = await results(client, batch.id)
    assert [*found] == ["first", "second", "third", "fourth"]
    first, second, third, fourth = (one.result for one in found.values())
    assert first.type == "succeeded"
    assert (first.message.type, first.message.role, first.message.model) == (
        "message", "assistant", "claude-any",
    )  # fmt: skip
    assert first.message.id.startswith("msg_")
    assert [block.to_dict() for block in first.message.content] == [{"type": "text", "text": "You said: One"}]
    assert first.message.stop_reason == "end_turn"
    assert first.message.usage.input_tokens > 0
    assert first.message.usage.output_tokens > 0
    sent = next(one.body for one in mill.llm.requests if one.said == "One")
    assert sent == {
        "model": "claude-any",
        "max_tokens": 100,
        "temperature": 0.5,
        "stop": ["."],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One"}],
    }
    assert second.type == "succeeded"
    [block] = second.message.content
    assert block.type == "tool_use"
    assert (block.name, block.input, second.message.stop_reason) == ("weather", {"city": "Ulm"}, "tool_use")
    assert third.type == fourth.type == "errored"
    assert third.error.error.type == fourth.error.error.type == "invalid_request_error"
    assert fourth.error.error.message == "top_k: cannot be expressed on this endpoint"
    deleted = await client.messages.batches.delete(batch.id)
    assert (deleted.id, deleted.type) == (batch.id, "message_batch_deleted")
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.batches.retrieve(batch.id)


async def test_the_beta_client_is_served_as_well(client: AsyncAnthropic) -> None:
    batch = await client.beta.messages.batches.create(requests=[asked("a", "One")])
    await ended(client, batch.id)
    assert [one.custom_id async for one in await client.beta.messages.batches.results(batch.id)] == ["a"]


async def test_a_batch_of_which_all_fail_has_results(client: AsyncAnthropic) -> None:
    batch = await make(client, *(asked(f"{n}", "[fault=status:401]") for n in range(3)))
    assert (await ended(client, batch.id)).request_counts.errored == 3
    for one in (await results(client, batch.id)).values():
        assert one.result.type == "errored"
        assert one.result.error.error.type == "authentication_error"


async def test_many_requests_come_in_one_create_and_their_results_in_its_order(
    client: AsyncAnthropic,
) -> None:
    batch = await make(client, *(asked(f"c-{n}", f"{n}") for n in range(2500)))
    assert batch.request_counts.processing == 2500
    assert (await ended(client, batch.id)).request_counts.succeeded == 2500
    found = await results(client, batch.id)
    assert [*found] == [f"c-{n}" for n in range(2500)]
    assert [one.id async for one in client.messages.batches.list()] == [batch.id]


async def test_a_canceled_batch_keeps_what_was_done(mill: Served, client: AsyncAnthropic) -> None:
    held = [asked(f"{n}", "[hold=canceled]") for n in range(120)]
    batch = await make(client, asked("first", "One"), *held)
    await until(client, batch.id, lambda one: one.request_counts.succeeded > 0)
    canceling = await client.messages.batches.cancel(batch.id)
    assert (canceling.processing_status, canceling.ended_at) == ("canceling", None)
    assert canceling.cancel_initiated_at is not None
    assert (await client.messages.batches.cancel(batch.id)).processing_status == "canceling"
    with pytest.raises(AnthropicError):
        await client.messages.batches.results(batch.id)
    mill.llm.release("canceled")
    done = await ended(client, batch.id)
    assert done.cancel_initiated_at == canceling.cancel_initiated_at
    types = {name: one.result.type for name, one in (await results(client, batch.id)).items()}
    assert types["first"] == "succeeded"
    assert set(types.values()) == {"succeeded", "canceled"}
    assert sum(kind == "canceled" for kind in types.values()) == done.request_counts.canceled


async def test_a_batch_whose_time_is_over_has_expired_requests(mill: Served, client: AsyncAnthropic) -> None:
    batch = await make(client, *(asked(f"{n}", "[hold=late]") for n in range(120)))
    async with mill.database.connection() as connection:
        for table, column in (("batch", "id"), ("batch_schedule", "batch_id")):
            late = f"UPDATE {table} SET deadline_at = now() - interval '1 second' WHERE {column} = $1"
            await connection.execute(late, uuid(batch))
    await until(client, batch.id, lambda one: one.request_counts.expired > 0)
    mill.llm.release("late")
    done = await ended(client, batch.id)
    assert done.request_counts.errored == 0
    types = [one.result.type for one in (await results(client, batch.id)).values()]
    assert types.count("expired") == done.request_counts.expired > 0
    assert len(types) == 120


async def test_a_batch_paused_by_others_is_in_progress_for_strict_clients(
    mill: Served, client: AsyncAnthropic
) -> None:
    batch = await make(client, *(asked(f"{n}", "[hold=halted]") for n in range(120)))
    await canonical(client, "POST", f"/api/v1/batches/{uuid(batch)}/pause")
    mill.llm.release("halted")
    assert (await client.messages.batches.retrieve(batch.id)).processing_status == "in_progress"
    await canonical(client, "POST", f"/api/v1/batches/{uuid(batch)}/resume")
    assert (await ended(client, batch.id)).request_counts.succeeded == 120


async def test_lists_are_paged_by_the_client_itself_in_both_directions(client: AsyncAnthropic) -> None:
    made = [(await make(client, asked("a", "One"))).id for _ in range(5)]
    listed = client.messages.batches.list
    assert [one.id async for one in listed(limit=2)] == made[::-1]
    page = await listed(limit=2, after_id=made[3])
    assert ([one.id for one in page.data], page.has_more, page.first_id, page.last_id) == (
        [made[2], made[1]], True, made[2], made[1],
    )  # fmt: skip
    above = await listed(limit=2, before_id=made[0])
    assert ([one.id for one in above.data], above.has_more) == ([made[2], made[1]], True)
    assert {one.id async for one in listed(limit=2, before_id=made[0])} == {*made[1:]}
    assert [one async for one in listed(after_id=made[0])] == []


async def test_errors_are_of_the_class_that_the_client_has_for_them(
    mill: Served, client: AsyncAnthropic
) -> None:
    batch = await make(client, asked("a", "[hold=busy]"))
    other = client.with_options(api_key=await mill.key())
    for foreign in (
        other.messages.batches.retrieve, other.messages.batches.cancel,
        other.messages.batches.delete, other.messages.batches.results,
    ):  # fmt: skip
        with pytest.raises(anthropic.NotFoundError) as refused:
            await foreign(batch.id)
        assert refused.value.type == "not_found_error"
        assert (refused.value.request_id or "").startswith("req_")
    assert [one async for one in other.messages.batches.list()] == []
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.batches.retrieve("msgbatch_none")
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="gm_none").messages.batches.list()
    weak = client.with_options(api_key=await mill.key("batches:read"))
    with pytest.raises(anthropic.PermissionDeniedError):
        await make(weak, asked("a", "One"))
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "One"}])
    for bad in (["a", "a"], ["a b"], ["x" * 65], [""], []):
        with pytest.raises(anthropic.BadRequestError) as wrong:
            await make(client, *(asked(name, "One") for name in bad))
        assert wrong.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError) as without:
        await make(client, {"custom_id": "a"})
    assert "requests.0.params" in without.value.message
    mill.llm.release("busy")


async def test_a_409_is_tried_once(mill: Served, client: AsyncAnthropic) -> None:
    sent: list[Any] = []

    async def note(request: Any) -> None:
        sent.append(request)

    batch = await make(client, asked("a", "[hold=once]"))
    async with httpx2.AsyncClient(event_hooks={"request": [note]}, trust_env=False) as http:
        noted = client.with_options(http_client=http)
        with pytest.raises(anthropic.ConflictError):
            await noted.messages.batches.delete(batch.id)
        mill.llm.release("once")
        await ended(client, batch.id)
        with pytest.raises(anthropic.ConflictError) as refused:
            await noted.messages.batches.cancel(batch.id)
    assert len(sent) == 2
    assert "ended" in refused.value.message


async def test_a_create_is_read_as_it_arrives_and_no_longer_than_it_may_be(
    mill: Served, client: AsyncAnthropic
) -> None:
    """Written by hand: the client would not send it."""
    key = {"Authorization": f"Bearer {client.api_key}", "Content-Type": "application/json"}
    many = b",".join(b'{"custom_id": "%d", "params": {}}' % n for n in range(100_001))
    async with httpx2.AsyncClient(base_url=mill.url, headers=key, trust_env=False, timeout=90) as http:
        for content, status, told in (
            (b'{"requests": [' + many + b"]}", 400, "at most 100,000"),
            (b'{"requests": [{"custom_id": "a", "params": {}}', 400, "request"),
            (b'{"requests": [{"custom_id": "a", "params": {}}, {]}', 400, "requests.1"),
            (b'{"requests": [[]]}', 400, "requests.0"),
            (b'{"requests": {}}', 400, "requests"),
            (b'{"extra": 1}', 400, "requests"),
            (b"", 400, "request"),
        ):
            answer = await http.post(PATH, content=content)
            assert (answer.status_code, told in answer.json()["error"]["message"]) == (status, True), (
                answer.text
            )
            assert answer.json()["type"] == "error"
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(mill.url).port)
    head = {"Host": "mill", "Content-Length": f"{256 * 1024 * 1024 + 1}"} | key
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode())
    told = await reader.readuntil(b"request_too_large")
    writer.close()
    assert told.startswith(b"HTTP/1.1 413")
    assert [one async for one in client.messages.batches.list()] == []


async def test_a_create_that_is_sent_again_under_a_key_makes_one_batch(client: AsyncAnthropic) -> None:
    for count in (1, 1001):
        requests = [asked(f"{n}", "One") for n in range(count)]
        headers = {"Idempotency-Key": f"once-{count}"}
        create = client.messages.batches.create
        first, second = [await create(requests=requests, extra_headers=headers) for _ in range(2)]
        assert first.id == second.id
        with pytest.raises(anthropic.UnprocessableEntityError):
            await create(requests=[asked("other", "One")], extra_headers=headers)
    assert len([one async for one in client.messages.batches.list()]) == 2


async def test_an_endpoint_that_speaks_messages_gets_them_untouched(server: Server, tmp_path: Path) -> None:
    async with (
        serving(server, tmp_path, llm_messages="true") as mill,
        AsyncAnthropic(base_url=mill.url, api_key=await mill.key()) as client,
    ):
        request = asked("a", "One", top_k=5, thinking={"type": "enabled", "budget_tokens": 1024})
        batch = await make(client, request)
        await ended(client, batch.id)
        [found] = (await results(client, batch.id)).values()
        assert found.result.type == "succeeded"
        assert [block.type for block in found.result.message.content] == ["thinking", "text"]
        [sent] = mill.llm.requests
    assert (sent.path, sent.body) == ("/v1/messages", json.loads(json.dumps(request["params"])))
    assert (sent.headers["x-api-key"], sent.headers["anthropic-version"]) == (LLM_KEY, "2023-06-01")
