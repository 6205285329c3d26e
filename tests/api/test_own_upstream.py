"""A batch's own key and model for the model's endpoint: encrypted, never shown, gone when the batch has ended."""

from typing import Any
from uuid import UUID

import orjson
import pytest

import factories
from gristmill.db import Database
from gristmill.processors.secrets import upstream_binding
from gristmill.vault import VaultError
from service import VAULT, Caller, problems

BATCHES = "/api/v1/batches"
KEY = "sk-of-the-caller-0123456789"
BOTH = {"api_key": KEY, "model": "mine"}
REQUESTS = [{"custom_id": "req-0", "input": {"text": "x" * 60}}]


async def stored(database: Database) -> tuple[str | None, bytes | None, str]:
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT upstream, upstream_key, batch::text FROM batch")
    assert row is not None
    return row[0], row[1], row[2]


async def make(caller: Caller, upstream: Any = BOTH, **fields: Any) -> dict[str, Any]:
    return await caller.batch(REQUESTS, processor="tag", upstream=upstream, **fields)


async def failed(caller: Caller, database: Database, upstream: Any = BOTH) -> str:
    """The id of such a batch that has ended with its request failed."""
    batch_id = str((await make(caller, upstream))["id"])
    worker = await factories.make_worker(database, processors=("tag",))
    [lease] = await factories.claim(database, worker, {"tag": 1})
    flush = factories.Flush({lease.id: 0}, [factories.failure(lease, 0, 500)])
    await factories.record(database, worker, flush)
    return batch_id


async def test_the_key_is_stored_encrypted_and_bound_to_its_batch(caller: Caller, database: Database) -> None:
    batch = await make(caller)
    shown, sealed, row = await stored(database)
    assert orjson.loads(shown or "") == {"model": "mine", "own_key": True}
    assert sealed is not None
    assert VAULT.decrypt(sealed, upstream_binding(batch["id"])) == KEY.encode()
    with pytest.raises(VaultError):
        VAULT.decrypt(sealed, upstream_binding(UUID(int=1)))
    assert KEY not in row
    assert KEY.encode().hex() not in row


async def test_no_route_shows_the_key(caller: Caller) -> None:
    batch = await make(caller)
    assert batch["upstream"] == {"model": "mine", "own_key": True}
    paths = ["", f"/{batch['id']}", f"/{batch['id']}/results", f"/{batch['id']}/results/req-0"]
    shown = [str(batch), *[(await caller.get(BATCHES + path)).text for path in paths]]
    shown.append((await caller.post(f"{BATCHES}/{batch['id']}/cancel")).text)
    assert all(KEY not in text for text in shown)
    body = {"processor": "tag", "requests": REQUESTS, "upstream": BOTH}
    assert KEY not in (await caller.post(f"{BATCHES}/validate", body)).text


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ({"model": "mine"}, {"model": "mine", "own_key": False}),
        ({"api_key": KEY}, {"model": None, "own_key": True}),
        (None, None),
    ],
)
async def test_each_of_them_can_be_left_out(caller: Caller, upstream: Any, expected: Any) -> None:
    assert (await make(caller, upstream))["upstream"] == expected


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ({}, {"/upstream": "key_or_model"}),
        ({"api_key": "sk 1\r\nX: y"}, {"/upstream": "api_key"}),
        ({"api_key": ""}, {"/upstream": "api_key"}),
        ({"api_key": KEY * 50}, {"/upstream/api_key": "too_long"}),
        ({"model": ""}, {"/upstream/model": "string_too_short"}),
        ({"api_key": KEY, "base_url": "https://example.com"}, {"/upstream/base_url": "extra_forbidden"}),
    ],
)
async def test_a_bad_one_is_refused_and_not_repeated(
    caller: Caller, database: Database, upstream: Any, expected: dict[str, str]
) -> None:
    answer = await caller.post(BATCHES, {"processor": "tag", "requests": REQUESTS, "upstream": upstream})
    assert problems(answer) == expected
    assert KEY not in answer.text
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM batch") == 0


async def test_a_processor_that_calls_no_model_takes_none(caller: Caller) -> None:
    body = {"processor": "noop", "requests": [{"custom_id": "a", "input": {"text": ""}}], "upstream": BOTH}
    assert problems(await caller.post(BATCHES, body)) == {"/upstream": "calls_no_model"}


async def test_the_key_goes_in_the_transaction_that_ends_the_batch(
    caller: Caller, database: Database
) -> None:
    await failed(caller, database)
    shown, sealed, _ = await stored(database)
    assert (shown is not None, sealed) == (True, None)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_it_goes_however_the_batch_ends(caller: Caller, database: Database, how: str) -> None:
    batch = await make(caller)
    if how == "cancel":
        await caller.post(f"{BATCHES}/{batch['id']}/cancel")
    else:
        await factories.expire(database, UUID(batch["id"]))
    assert (await stored(database))[1] is not None
    await factories.sweep(database)
    assert (await stored(database))[1] is None


@pytest.mark.parametrize("body", [{}, {"upstream": {"model": "other"}}])
async def test_a_retry_must_say_with_which_key_it_goes_on(
    caller: Caller, database: Database, body: dict[str, Any]
) -> None:
    batch_id = await failed(caller, database)
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry", body)
    assert problems(answer) == {"/upstream/api_key": "missing"}
    assert (await caller.data(f"{BATCHES}/{batch_id}"))["status"] == "completed"


async def test_a_retry_can_bring_another_key(caller: Caller, database: Database) -> None:
    batch_id = await failed(caller, database)
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry", {"upstream": {"api_key": "sk-other"}})
    assert answer.json()["data"]["upstream"] == {"model": None, "own_key": True}
    sealed = (await stored(database))[1]
    assert sealed is not None
    assert VAULT.decrypt(sealed, upstream_binding(batch_id)) == b"sk-other"


async def test_a_retry_can_go_on_with_the_operator_s_key(caller: Caller, database: Database) -> None:
    batch_id = await failed(caller, database)
    given = {"upstream": {"api_key": None, "model": "mine"}}
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry", given)
    assert answer.json()["data"]["upstream"] == {"model": "mine", "own_key": False}
    assert (await stored(database))[1] is None


async def test_a_batch_with_a_model_alone_is_retried_as_any_other(caller: Caller, database: Database) -> None:
    batch_id = await failed(caller, database, {"model": "mine"})
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry")
    assert answer.json()["data"]["upstream"] == {"model": "mine", "own_key": False}


async def test_a_batch_made_without_one_gets_none_by_a_retry(caller: Caller, database: Database) -> None:
    batch_id = await failed(caller, database, None)
    answer = await caller.post(f"{BATCHES}/{batch_id}/retry", {"upstream": BOTH})
    assert problems(answer) == {"/upstream": "no_upstream"}
