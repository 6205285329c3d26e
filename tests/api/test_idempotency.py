"""Idempotency-Key: a create that is sent twice makes one batch, whatever happened to the first."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

import factories
from fakes.cutting import Cutter, When, cutting
from gristmill.api.app import create_app
from gristmill.db import Database
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.opening import open_storage
from gristmill.store import idempotency
from gristmill.worker.upkeep import Upkeep
from service import VAULT, Caller, Service, code_of, new_key, problems

BATCHES = "/api/v1/batches"
BODY = {"processor": "noop", "requests": [{"custom_id": "a", "input": {"text": "x"}}], "name": "once"}


async def create(caller: Caller, key: str, body: Any = BODY, path: str = BATCHES) -> httpx2.Response:
    return await caller.post(path, body, headers={"Idempotency-Key": key})


async def count(database: Database, table: str = "batch") -> int:
    [number] = await factories.sql(database, f"SELECT count(*) FROM {table}")
    return int(number)


@pytest.fixture
async def second_process(database: Database, settings: Settings, http: HttpSession) -> AsyncIterator[Service]:
    """Another API on the same database, with pools of its own, that shares nothing else with the first."""
    own = await Database(database.url).open()
    woken = asyncio.Event()
    app = create_app(
        own, VAULT, settings, wake=lambda *_: woken.set(), http=http, storage=open_storage(settings)
    )
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://second.test") as client:
        yield Service(app, own, client, woken)
    await own.close()


async def test_a_create_that_is_sent_again_gets_the_same_answer_and_makes_nothing(
    caller: Caller, database: Database
) -> None:
    first = await create(caller, '"my key"')
    await caller.post(f"{BATCHES}/{first.json()['data']['id']}/cancel")
    again = await create(caller, '"my key"')
    assert (again.status_code, again.content, again.headers["location"]) == (
        202,
        first.content,
        first.headers["location"],
    )
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (
        None,
        "true",
    )
    assert await count(database) == 1


async def test_without_a_key_or_with_another_each_create_makes_a_batch(
    caller: Caller, database: Database
) -> None:
    for _ in range(2):
        assert (await caller.post(BATCHES, BODY)).status_code == 202
    for key in ("a", "b", "A"):
        assert (await create(caller, key)).status_code == 202
    assert await count(database) == 5


async def test_the_same_key_with_another_body_is_422(caller: Caller, database: Database) -> None:
    first = await create(caller, "k")
    assert code_of(await create(caller, "k", BODY | {"name": "other"}), 422) == "idempotency_key_reused"
    assert code_of(await create(caller, "k", {"nonsense": 1}), 422) == "idempotency_key_reused"
    assert (await create(caller, "k")).content == first.content
    assert await count(database) == 1


async def test_keys_belong_to_the_tenant_not_to_its_api_key(
    service: Service, caller: Caller, other: Caller, database: Database
) -> None:
    first = await create(caller, "k")
    colleague = await new_key(service, caller.tenant_id, ["batches:write"])
    assert (await create(colleague, "k")).content == first.content
    theirs = await create(other, "k", BODY | {"name": "theirs"})
    assert (theirs.status_code, "idempotency-replayed" in theirs.headers) == (202, False)
    assert await count(database) == 2


async def test_an_answer_is_kept_when_what_the_body_names_is_gone(caller: Caller) -> None:
    file_id = await caller.upload(b'{"custom_id": "a", "input": {"text": "x"}}\n', "requests.jsonl")
    body = {"processor": "noop", "source": {"file_id": file_id}}
    first = await create(caller, "k", body)
    assert first.status_code == 202, first.text
    await caller.send("DELETE", f"/api/v1/files/{file_id}")
    problems(await create(caller, "another", body))
    assert (await create(caller, "k", body)).content == first.content


async def test_directories_are_created_from_once_too(caller: Caller, database: Database) -> None:
    file_id = await caller.upload(b"x")
    directory = await caller.directory(file_id)
    body = {"processor": "reader", "source": {"directory_id": directory}}
    first = await create(caller, "k", body)
    assert first.status_code == 202, first.text
    assert (await create(caller, "k", body)).content == first.content
    assert await count(database) == 1


async def test_a_refused_create_leaves_the_key_free(caller: Caller, database: Database) -> None:
    problems(await create(caller, "k", BODY | {"processor": "nothing"}))
    assert await count(database, "idempotency_key") == 0
    assert (await create(caller, "k")).status_code == 202


async def test_one_key_in_two_processes_at_once_makes_one_batch(
    caller: Caller, second_process: Service, database: Database
) -> None:
    twins = [caller, Caller(second_process, caller.tenant_id, caller.key)]
    for round_ in range(10):
        answers = await asyncio.gather(*(create(twin, f"k{round_}") for twin in twins * 4))
        assert {one.status_code for one in answers} <= {202, 409}
        made = [one for one in answers if one.status_code == 202]
        assert len({one.content for one in made}) == 1
        assert sum("idempotency-replayed" not in one.headers for one in made) == 1
        for one in answers:
            if one.status_code == 409:
                assert (code_of(one, 409), one.headers["retry-after"]) == ("idempotency_key_in_flight", "1")
    assert await count(database) == 10


async def test_a_key_at_work_in_another_process_is_409_until_it_has_ended(
    caller: Caller, second_process: Service, database: Database
) -> None:
    """The other process is held up in the middle of its transaction by a lock on a table that it writes last."""
    twin = Caller(second_process, caller.tenant_id, caller.key)
    async with database.transaction() as tx:
        await tx.execute("LOCK TABLE batch_count IN ACCESS EXCLUSIVE MODE")
        held = asyncio.create_task(create(twin, "k"))
        await factories.blocked(database, held)
        assert code_of(await create(caller, "k"), 409) == "idempotency_key_in_flight"
    first = await held
    assert first.status_code == 202
    assert (await create(caller, "k")).content == first.content


async def test_a_create_that_was_made_elsewhere_while_this_one_was_checked_is_not_made_again(
    caller: Caller, database: Database
) -> None:
    """This one has found no answer yet and is held up at its check, by a lock on what that reads. It wakes nobody."""
    body = {"configuration_id": await caller.configuration(), "requests": [{"custom_id": "a", "input": {}}]}
    text = orjson.dumps(body)
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    caller.service.woken.clear()
    async with database.transaction() as tx:
        await tx.execute("LOCK TABLE configuration IN ACCESS EXCLUSIVE MODE")
        held = asyncio.create_task(caller.send("POST", BATCHES, content=text, headers=headers))
        await factories.blocked(database, held)
        name = idempotency.Name(caller.tenant_id, BATCHES, "k")
        kept = idempotency.Kept(VAULT.fingerprint(text), 202, "/api/v1/batches/first", b"{}")
        await idempotency.keep(tx, name, kept, 60)
    answer = await held
    assert (answer.status_code, answer.content, answer.headers["location"]) == (202, b"{}", kept.location)
    assert await count(database) == 0
    assert not caller.service.woken.is_set()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_create_whose_connection_was_lost_at_its_commit_is_sent_again_and_there_is_one_batch(
    caller: Caller, database: Database, settings: Settings, http: HttpSession, when: When
) -> None:
    async with cutting(Cutter.to_postgres(database.url)) as cutter:
        through = await Database(cutter.postgres_url(database.url)).open()
        app = create_app(
            through, VAULT, settings, wake=lambda *_: None, http=http, storage=open_storage(settings)
        )
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://through.test") as client:
            unlucky = Caller(Service(app, through, client, asyncio.Event()), caller.tenant_id, caller.key)
            assert (await unlucky.get(BATCHES)).status_code == 200
            cutter.cut_at(b"COMMIT", when)
            lost = await create(unlucky, "k")
            assert (lost.status_code, "retry-after" in lost.headers, cutter.cuts) == (503, True, 1)
            assert await count(database) == (when == "after")
            again = await _until_it_is_free(unlucky)
        await through.close()
    assert again.headers.get("idempotency-replayed") == ("true" if when == "after" else None)
    assert await count(database) == 1
    assert again.json()["data"]["id"] == str((await factories.sql(database, "SELECT id FROM batch"))[0])


async def _until_it_is_free(caller: Caller) -> httpx2.Response:
    """Postgres may not know yet that the first connection is gone."""
    async with asyncio.timeout(60):
        while (answer := await create(caller, "k")).status_code == 409:
            await asyncio.sleep(0.05)
    assert answer.status_code == 202, answer.text
    return answer


async def test_a_key_is_forgotten_when_its_time_is_over(caller: Caller, database: Database) -> None:
    first = await create(caller, "k")
    await create(caller, "other")
    await factories.sql(
        database, "UPDATE idempotency_key SET expires_at = now() - interval '1 second' WHERE key = 'k'"
    )
    again = await create(caller, "k", BODY | {"name": "new"})
    assert again.status_code == 202
    assert again.json()["data"]["id"] != first.json()["data"]["id"]
    assert (await create(caller, "k", BODY | {"name": "new"})).content == again.content
    await factories.sql(
        database, "UPDATE idempotency_key SET expires_at = now() - interval '1 second' WHERE key = 'k'"
    )
    await Upkeep(database, lease_seconds=30.0).tidy()
    assert await factories.sql(database, "SELECT key FROM idempotency_key") == ["other"]


async def test_a_key_is_kept_for_the_time_of_the_settings(caller: Caller, database: Database) -> None:
    await create(caller, "k")
    [hours] = await factories.sql(
        database, "SELECT extract(epoch FROM expires_at - now()) / 3600 FROM idempotency_key"
    )
    assert 23.9 < hours <= 24


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'),
        ("*a/b:c", '  "*a/b:c"  '),
        (r'"say \"hi\" \\"', r'"say \"hi\" \\"'),
        ("x" * 255, f'"{"x" * 255}"'),
    ],
)
async def test_a_key_is_the_same_bare_or_quoted(
    caller: Caller, database: Database, one: str, same: str
) -> None:
    assert (await create(caller, one)).status_code == 202
    assert (await create(caller, same)).headers["idempotency-replayed"] == "true"
    assert await count(database) == 1


@pytest.mark.parametrize(
    "key",
    [
        "",
        '""',
        "a b",
        '"a',
        'a"',
        "x" * 256,
        f'"{"x" * 256}"',
        '"a";b=1',
        '"a", "b"',
        r'"\x"',
        '"a\tb"',
        "ä",
        '"ä"',
    ],
)
async def test_what_is_no_key_is_a_400_and_nothing_is_stored(
    caller: Caller, database: Database, key: str
) -> None:
    answer = await caller.post(BATCHES, BODY, headers={"Idempotency-Key": key.encode()})
    assert problems(answer) == {"Idempotency-Key": "invalid_idempotency_key"}
    assert await count(database) == 0


async def test_two_keys_in_one_request_are_refused(caller: Caller) -> None:
    headers = [("x-api-key", caller.key), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    answer = await caller.service.client.post(BATCHES, json=BODY, headers=headers)
    assert problems(answer) == {"Idempotency-Key": "invalid_idempotency_key"}


async def test_the_body_is_not_kept_with_the_key(caller: Caller, database: Database) -> None:
    secret = f"whsec_{uuid4().hex}"
    body = BODY | {"webhook": {"url": "https://a.example.com/", "secret": secret}}
    assert (await create(caller, "k", body)).status_code == 202
    [row] = await factories.sql(database, "SELECT k::text || encode(body, 'escape') FROM idempotency_key k")
    assert secret not in row
    assert (await create(caller, "k", body)).headers["idempotency-replayed"] == "true"
