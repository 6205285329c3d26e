"""OpenAI's Batch API by the official client, from upload to results, with only its base_url and key set."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch, FileObject

from fakes.receiver import Receiver
from served import Served

pytestmark = pytest.mark.slow
EIGHT = {
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled",
}  # fmt: skip
CHAT = "/v1/chat/completions"


def line(custom_id: str, text: str, url: str = CHAT, **body: Any) -> str:
    given = {"model": "gpt-any", "messages": [{"role": "user", "content": text}]}
    if url == "/v1/embeddings":
        given = {"model": "embedding-any", "input": text}
    elif url == "/v1/responses":
        given = {"model": "gpt-any", "input": text}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": given | body})


async def upload(client: AsyncOpenAI, *lines: str, **more: Any) -> FileObject:
    return await client.files.create(
        file=("requests.jsonl", "\n".join(lines).encode()), **({"purpose": "batch"} | more)
    )


async def make(client: AsyncOpenAI, *lines: str, endpoint: Any = CHAT, **more: Any) -> Batch:
    file = await upload(client, *lines)
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, **({"completion_window": "24h"} | more)
    )


async def until(client: AsyncOpenAI, batch_id: str, met: Callable[[Batch], bool]) -> Batch:
    """The batch as soon as that holds; no status but the eight on the way."""
    async with asyncio.timeout(90):
        while True:
            batch = await client.batches.retrieve(batch_id)
            assert batch.status in EIGHT
            if met(batch):
                return batch
            await asyncio.sleep(0.05)


async def at_work(mill: Served, name: str) -> None:
    """Until a call is held by that name: a batch in progress may have items that wait for a permit only."""
    async with asyncio.timeout(90):
        while not any(f"[hold={name}]" in request.said for request in mill.llm.requests):
            await asyncio.sleep(0.05)


async def ended(client: AsyncOpenAI, batch_id: str) -> Batch:
    final = {"completed", "failed", "expired", "cancelled"}
    return await until(client, batch_id, lambda batch: batch.status in final)


async def rows(client: AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of an output by their custom ids."""
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    found = [json.loads(one) for one in text.splitlines()]
    assert len({one["id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


async def canonical(client: AsyncOpenAI, method: str, path: str, body: Any = None) -> Any:
    url = str(client.base_url).removesuffix("/v1/") + path
    headers = {"x-api-key": client.api_key}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as other:
        answer = await other.request(method, url, headers=headers, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()["data"]


def uuid(batch: Batch) -> str:
    digits = batch.id.removeprefix("batch_")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


async def test_a_whole_life_from_upload_to_results(client: AsyncOpenAI) -> None:
    file = await upload(client, line("a", "One"), line("b", "Two"), line("c", "[fault=status:400]"), "")
    assert (file.object, file.purpose, file.filename, file.status) == (
        "file", "batch", "requests.jsonl", "processed",
    )  # fmt: skip
    assert (await client.files.retrieve(file.id)) == file
    assert len((await client.files.content(file.id)).content) == file.bytes
    batch = await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"job": "nightly"}
    )
    assert (batch.object, batch.endpoint, batch.input_file_id) == ("batch", CHAT, file.id)
    assert batch.status in {"validating", "in_progress"}
    assert (batch.output_file_id, batch.error_file_id, batch.errors) == (None, None, None)
    assert batch.expires_at == batch.created_at + 86_400
    done = await ended(client, batch.id)
    assert (done.status, done.metadata) == ("completed", {"job": "nightly"})
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    assert done.completed_at is not None
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens > 0
    out, errors = await rows(client, done.output_file_id), await rows(client, done.error_file_id)
    assert [*out] == ["a", "b"]
    assert out["a"]["error"] is None
    assert out["a"]["response"]["status_code"] == 200
    assert out["a"]["response"]["body"]["choices"][0]["message"]["content"] == "You said: One"
    assert [*errors] == ["c"]
    assert (errors["c"]["error"], errors["c"]["response"]["status_code"]) == (None, 400)
    assert errors["c"]["response"]["body"]["error"]["message"]
    deleted = await client.files.delete(file.id)
    assert (deleted.deleted, deleted.object, deleted.id) == (True, "file", file.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


@pytest.mark.parametrize(
    ("endpoint", "found"), [("/v1/embeddings", "data"), ("/v1/responses", "output"), (CHAT, "choices")]
)
async def test_each_of_the_three_endpoints_is_called(client: AsyncOpenAI, endpoint: str, found: str) -> None:
    batch = await make(client, line("a", "One", endpoint), endpoint=endpoint)
    done = await ended(client, batch.id)
    assert (await rows(client, done.output_file_id))["a"]["response"]["body"][found]
    assert (done.endpoint, done.error_file_id) == (endpoint, None)


async def test_a_batch_without_a_success_has_no_output_file(client: AsyncOpenAI) -> None:
    batch = await make(client, *(line(f"{n}", "[fault=status:401]") for n in range(3)))
    done = await ended(client, batch.id)
    assert (done.status, done.output_file_id) == ("completed", None)
    assert len(await rows(client, done.error_file_id)) == 3


async def test_outputs_are_files_that_can_be_had_and_deleted_without_the_results(client: AsyncOpenAI) -> None:
    done = await ended(client, (await make(client, line("a", "One"))).id)
    assert done.output_file_id is not None
    file = await client.files.retrieve(done.output_file_id)
    content = (await client.files.content(file.id)).content
    assert (file.purpose, file.bytes, file.created_at) == ("batch_output", len(content), done.completed_at)
    assert (await client.files.delete(file.id)).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await gone(file.id)
    [result] = await canonical(client, "GET", f"/api/v1/batches/{uuid(done)}/results")
    assert result["status"] == "success"
    assert (await client.batches.retrieve(done.id)).output_file_id == file.id


async def test_outputs_expire_when_their_batch_asked_for_it(mill: Served, client: AsyncOpenAI) -> None:
    expires: Any = {"anchor": "created_at", "seconds": 3600}
    done = await ended(client, (await make(client, line("a", "One"), output_expires_after=expires)).id)
    assert done.output_file_id is not None
    file = await client.files.retrieve(done.output_file_id)
    assert file.expires_at == file.created_at + 3600
    async with mill.database.connection() as connection:
        await connection.execute(
            "UPDATE batch SET completed_at = completed_at - interval '2 hours' WHERE id = $1", uuid(done)
        )
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)


async def test_bad_lines_fail_the_batch_and_are_told_one_by_one(client: AsyncOpenAI) -> None:
    good = line("a", "One")
    batch = await make(
        client,
        good,
        "{not json",
        line("b", "Two", url="/v1/embeddings"),
        json.dumps({"custom_id": "c", "method": "GET", "url": CHAT, "body": {}}),
        json.dumps({"method": "POST", "url": CHAT, "body": {}}),
        json.dumps({"custom_id": "d", "method": "POST", "url": CHAT}),
        line("e", "Three", stream=True),
        "",
        "[1]",
    )
    done = await ended(client, batch.id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert (done.failed_at is not None, done.completed_at, done.in_progress_at) == (True, None, None)
    assert done.errors is not None
    assert done.errors.data is not None
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 0, "completed": 0, "failed": 0}
    assert [(one.line, one.code, one.param) for one in done.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "url_mismatch", "url"),
        (4, "invalid_method", "method"),
        (5, "missing_required_parameter", "custom_id"),
        (6, "invalid_body", "body"),
        (7, "stream_not_supported", "body"),
        (9, "invalid_json_line", None),
    ]


async def test_a_custom_id_that_comes_twice_is_told(client: AsyncOpenAI) -> None:
    done = await ended(client, (await make(client, line("a", "One"), line("b", ""), line("a", "Two"))).id)
    assert done.errors is not None
    [error] = done.errors.data or []
    assert (error.code, error.line, error.param) == ("duplicate_custom_id", 3, "custom_id")


async def test_a_file_of_thousands_of_lines_becomes_an_output_in_their_order(client: AsyncOpenAI) -> None:
    done = await ended(client, (await make(client, *(line(f"c-{n}", f"{n}") for n in range(2500)))).id)
    out = await rows(client, done.output_file_id)
    assert [*out] == [f"c-{n}" for n in range(2500)]
    assert out["c-7"]["response"]["body"]["choices"][0]["message"]["content"] == "You said: 7"


async def test_a_cancelled_batch_keeps_what_was_done(mill: Served, client: AsyncOpenAI) -> None:
    held = [line(f"{n}", "[hold=cancelled]") for n in range(120)]
    batch = await make(client, line("first", "One"), *held)
    await until(client, batch.id, lambda one: bool(one.request_counts and one.request_counts.completed))
    cancelled = await client.batches.cancel(batch.id)
    assert (cancelled.status, cancelled.cancelled_at) == ("cancelling", None)
    assert cancelled.cancelling_at is not None
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    mill.llm.release("cancelled")
    done = await ended(client, batch.id)
    assert (done.status, done.cancelling_at) == ("cancelled", cancelled.cancelling_at)
    assert done.cancelled_at is not None
    out, errors = await rows(client, done.output_file_id), await rows(client, done.error_file_id)
    assert "first" in out
    assert not out.keys() & errors.keys()
    assert len(out) + len(errors) == 121
    assert {(one["response"], one["error"]["code"]) for one in errors.values()} == {(None, "batch_cancelled")}


async def test_a_batch_whose_time_is_over_is_expired(mill: Served, client: AsyncOpenAI) -> None:
    batch = await make(client, *(line(f"{n}", "[hold=expired]") for n in range(120)))
    await at_work(mill, "expired")
    async with mill.database.connection() as connection:
        for table, column in (("batch", "id"), ("batch_schedule", "batch_id")):
            late = f"UPDATE {table} SET deadline_at = now() - interval '1 second' WHERE {column} = $1"
            await connection.execute(late, uuid(batch))
    await until(client, batch.id, lambda one: one.status == "finalizing")
    mill.llm.release("expired")
    done = await ended(client, batch.id)
    assert (done.status, done.errors, done.failed_at) == ("expired", None, None)
    assert done.expired_at is not None
    errors = await rows(client, done.error_file_id)
    assert {one["error"]["code"] for one in errors.values()} == {"batch_expired"}
    assert len(errors) + len(await rows(client, done.output_file_id)) == 120


async def test_a_batch_paused_by_others_is_in_progress_for_strict_clients(
    mill: Served, client: AsyncOpenAI
) -> None:
    batch = await make(client, *(line(f"{n}", "[hold=paused]") for n in range(120)))
    await until(client, batch.id, lambda one: one.status == "in_progress")
    await canonical(client, "POST", f"/api/v1/batches/{uuid(batch)}/pause")
    mill.llm.release("paused")
    assert (await client.batches.retrieve(batch.id)).status == "in_progress"
    await canonical(client, "POST", f"/api/v1/batches/{uuid(batch)}/resume")
    assert (await ended(client, batch.id)).status == "completed"


async def test_lists_are_paged_by_the_client_itself(client: AsyncOpenAI) -> None:
    made = [(await make(client, line("a", "One"))).id for _ in range(5)]
    await canonical(client, "POST", "/api/v1/batches", {
        "processor": "noop", "requests": [{"custom_id": "a", "input": {"text": ""}}],
    })  # fmt: skip
    assert [one.id async for one in await client.batches.list(limit=2)] == made[::-1]
    page = await client.batches.list(limit=2, after=made[3])
    assert ([one.id for one in page.data], page.has_more) == ([made[2], made[1]], True)
    assert [one.id async for one in client.batches.list(after=made[0])] == []
    files = [one.id async for one in client.files.list(limit=2, purpose="batch")]
    assert len(files) == 5
    assert [one.id async for one in client.files.list(limit=3, order="asc")] == files[::-1]
    assert [one.id async for one in client.files.list(purpose="vision")] == []


async def test_errors_are_of_the_class_that_the_client_has_for_them(
    mill: Served, client: AsyncOpenAI
) -> None:
    file = await upload(client, line("a", "One"))
    other = client.with_options(api_key=await mill.key())
    create = client.batches.create
    for unknown in ("file-unknown", f"file-{0:032x}"):
        with pytest.raises(openai.NotFoundError):
            await create(input_file_id=unknown, endpoint=CHAT, completion_window="24h")
    for foreign in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            await foreign(file.id)
        assert refused.value.type == "invalid_request_error"
        assert refused.value.request_id
    with pytest.raises(openai.NotFoundError):
        await other.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch = await create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    await ended(client, batch.id)
    for foreign_batch in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await foreign_batch(batch.id)
    assert [one async for one in other.batches.list()] == []
    with pytest.raises(openai.AuthenticationError) as unknown_key:
        await client.with_options(api_key="gm_none").files.list()
    assert unknown_key.value.code == "invalid_api_key"
    weak = client.with_options(api_key=await mill.key("batches:read"))
    with pytest.raises(openai.PermissionDeniedError):
        await upload(weak, line("a", "One"))
    with pytest.raises(openai.NotFoundError):
        await client.models.list()
    with pytest.raises(openai.BadRequestError):
        await client.batches.list(after="batch_x")


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {"x" * 65: "y"}}, "metadata." + "x" * 64),
        ({"metadata": {"x": "y" * 513}}, "metadata.x"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
    ],
)
async def test_a_bad_create_is_a_bad_request_that_names_the_field(
    client: AsyncOpenAI, changed: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await make(client, line("a", "One"), **changed)
    assert refused.value.param == param
    assert [one async for one in client.batches.list()] == []


async def test_a_file_of_another_purpose_or_without_lines_makes_no_batch(client: AsyncOpenAI) -> None:
    for file, code in (
        (await upload(client, line("a", "One"), purpose="vision"), "invalid_file_purpose"),
        (await upload(client, " \n"), "empty_file"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        assert (refused.value.code, refused.value.param) == (code, "input_file_id")


async def test_a_file_lives_for_as_long_as_its_upload_says(client: AsyncOpenAI) -> None:
    expires: Any = {"anchor": "created_at", "seconds": 7200}
    file = await upload(client, line("a", "One"), expires_after=expires)
    assert file.expires_at == file.created_at + 7200
    assert (await upload(client, line("a", "One"))).expires_at is None
    for bad in ({"anchor": "created_at", "seconds": 3599}, {"anchor": "last_used", "seconds": 7200}):
        with pytest.raises(openai.BadRequestError):
            await upload(client, line("a", "One"), expires_after=bad)
    with pytest.raises(openai.BadRequestError):
        await upload(client, line("a", "One"), purpose="fun")


async def test_a_409_is_tried_once(client: AsyncOpenAI) -> None:
    batch = await ended(client, (await make(client, line("a", "One"))).id)
    sent: list[Any] = []

    async def note(request: Any) -> None:
        sent.append(request)

    async with httpx2.AsyncClient(event_hooks={"request": [note]}, trust_env=False) as http:
        with pytest.raises(openai.ConflictError) as refused:
            await client.with_options(http_client=http).batches.cancel(batch.id)
    assert len(sent) == 1
    assert "Cannot cancel a batch with status 'completed'." in refused.value.message


async def test_a_create_that_is_sent_again_under_a_key_makes_one_batch(client: AsyncOpenAI) -> None:
    file = await upload(client, line("a", "One"))
    body: dict[str, Any] = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Idempotency-Key": "once"}
    first, second = [await client.batches.create(**body, extra_headers=headers) for _ in range(2)]
    assert first.id == second.id
    assert len([one async for one in client.batches.list()]) == 1


async def test_a_webhook_of_the_batch_is_read_by_the_client_and_leads_back_to_it(client: AsyncOpenAI) -> None:
    async with Receiver() as receiver:
        webhook = {"url": receiver.url, "secret": "whsec_" + "c2VjcmV0" * 4}
        batch = await make(client, line("a", "One"), extra_body={"webhook": webhook, "unknown": 1})
        [delivery] = await receiver.until(1)
    event = client.webhooks.unwrap(delivery.body, delivery.headers, secret=webhook["secret"])
    assert event.type == "batch.completed"
    assert (await client.batches.retrieve(event.data.id)).id == batch.id
