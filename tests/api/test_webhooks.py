"""`webhooks`: several for one batch, each with headers, signatures and events of its own."""

from typing import Any

import httpx2
import orjson
import pytest

from gristmill.db import Database
from gristmill.domain.webhooks import Signature, from_json
from service import VAULT, Caller, problems

BATCHES = "/api/v1/batches"
URL = "https://a.example.com/hook"


async def with_webhooks(caller: Caller, *webhooks: Any) -> httpx2.Response:
    requests = [{"custom_id": "a", "input": {"text": ""}}]
    return await caller.post(BATCHES, {"processor": "noop", "requests": requests, "webhooks": list(webhooks)})


async def test_webhooks_are_shown_without_what_is_secret_about_them_and_stored_encrypted(
    caller: Caller, database: Database
) -> None:
    given = {
        "url": URL,
        "events": ["batch.started", "paused", "batch.paused"],
        "secret": "your-webhook-secret",
        "headers": {"Authorization": "Bearer of-the-receiver"},
        "signatures": ["llamacloud", "standard", "llamacloud"],
    }
    made = await with_webhooks(caller, given, {"url": "https://b.example.com/"})
    assert made.status_code == 202
    shown = made.json()["data"]
    assert shown["webhook"] is None
    assert shown["webhooks"] == [
        {"url": URL, "events": ["started", "paused"], "signatures": ["llamacloud", "standard"]},
        {
            "url": "https://b.example.com/",
            "events": ["completed", "failed"],
            "signatures": ["standard", "codeer"],
        },
    ]
    for answer in (made, await caller.get(f"{BATCHES}/{shown['id']}"), await caller.get(BATCHES)):
        assert "your-webhook-secret" not in answer.text
        assert "of-the-receiver" not in answer.text
        assert "sealed" not in answer.text
    async with database.connection() as connection:
        kept = await connection.fetchval("SELECT webhooks FROM batch")
    assert "your-webhook-secret" not in kept
    assert "of-the-receiver" not in kept
    first, second = from_json(kept)
    assert first.sealed is not None
    assert orjson.loads(VAULT.decrypt(first.sealed, f"webhook:{shown['id']}:0")) == {
        "secret": "your-webhook-secret",
        "headers": {"Authorization": "Bearer of-the-receiver"},
    }
    assert (second.sealed, second.signatures) == (None, (Signature.STANDARD, Signature.CODEER))


@pytest.mark.parametrize(
    ("webhook", "pointer"),
    [
        ({}, "/webhooks/1/url"),
        (5, "/webhooks/1"),
        ({"url": "http://a.example.com/"}, "/webhooks/1/url"),
        ({"url": "https://169.254.169.254/"}, "/webhooks/1/url"),
        ({"url": URL, "events": ["sometimes"]}, "/webhooks/1/events/0"),
        ({"url": URL, "events": []}, "/webhooks/1/events"),
        ({"url": URL, "signatures": ["md5"], "secret": "x"}, "/webhooks/1/signatures/0"),
        ({"url": URL, "signatures": [], "secret": "x"}, "/webhooks/1/signatures"),
        ({"url": URL, "signatures": ["standard"]}, "/webhooks/1"),
        ({"url": URL, "secret": "x" * 256}, "/webhooks/1/secret"),
        ({"url": URL, "headers": {"Host": "b.example.com"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"Content-Length": "5"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"webhook-id": "evt_1"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"lc-signature": "sha256=0"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"X-A": "line\nbreak"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"X A": "1"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"X-A": "1", "x-a": "2"}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {"X-A": 5}}, "/webhooks/1/headers/X-A"),
        ({"url": URL, "headers": {f"X-{n}": "1" for n in range(33)}}, "/webhooks/1/headers"),
        ({"url": URL, "headers": {f"X-{n}": "1" * 4096 for n in range(3)}}, "/webhooks/1"),
        ({"url": URL, "wire": {}}, "/webhooks/1/wire"),
    ],
)
async def test_a_webhook_of_the_list_that_cannot_be_called_is_refused_with_its_place(
    caller: Caller, database: Database, webhook: Any, pointer: str
) -> None:
    answer = await with_webhooks(caller, {"url": URL}, webhook)
    assert list(problems(answer)) == [pointer]
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM batch") == 0


async def test_nine_webhooks_are_too_many_and_eight_are_not(caller: Caller) -> None:
    assert (await with_webhooks(caller, *[{"url": URL}] * 8)).status_code == 202
    assert problems(await with_webhooks(caller, *[{"url": URL}] * 9)) == {"/webhooks": "too_long"}


async def test_a_refusal_repeats_nothing_secret(caller: Caller) -> None:
    answer = await with_webhooks(
        caller,
        {"url": URL, "secret": "sesame-of-mine", "headers": {"X-A": "treasure\n"}, "signatures": ["x"]},
    )
    assert answer.status_code == 400
    assert "sesame" not in answer.text
    assert "treasure" not in answer.text
