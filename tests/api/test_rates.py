"""How many requests a tenant may send, how much it may have at a time, and how a refusal says so."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

import factories
from gristmill.api.app import create_app
from gristmill.api.rates import Rates
from gristmill.db import Database
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.opening import open_storage
from service import VAULT, Caller, Service, code_of, new_tenant

BATCHES = "/api/v1/batches"


@pytest.fixture
async def callers(
    database: Database, settings: Settings, http: HttpSession, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Caller, Caller]]:
    """Two tenants of an application with the settings of the parameter."""
    given = settings.model_copy(update=request.param)
    app = create_app(database, VAULT, given, wake=lambda *_: None, http=http, storage=open_storage(given))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://attacker.test") as client:
        service = Service(app, database, client, asyncio.Event())
        yield await new_tenant(service), await new_tenant(service)


def limited(**given: Any) -> pytest.MarkDecorator:
    settings = {f"tenant_{name}": value for name, value in given.items()}
    return pytest.mark.parametrize("callers", [settings], indirect=True, ids=["limited"])


def body(requests: int, **more: Any) -> dict[str, Any]:
    return {
        "processor": "noop",
        "requests": [{"custom_id": f"req-{n}", "input": {"text": "a"}} for n in range(requests)],
        **more,
    }


# --- the bucket -------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_tenant_may_send_a_minute_worth_at_once_and_then_as_fast_as_they_come_back() -> None:
    clock, tenant = Clock(), uuid4()
    rates = Rates(30, clock)
    taken = [rates.take(tenant) for _ in range(31)]
    assert all(one is not None for one in taken)
    assert [one.remaining for one in taken if one] == [*range(29, -1, -1), 0]
    assert [one.allowed for one in taken if one] == [True] * 30 + [False]
    last = taken[-1]
    assert last is not None
    assert (last.retry_after_seconds, last.reset_seconds) == (2, 60)
    clock.now += 1.9
    assert (refused := rates.take(tenant)) is not None
    assert not refused.allowed
    clock.now += 0.1
    assert (allowed := rates.take(tenant)) is not None
    assert allowed.allowed
    clock.now += 60
    assert (rested := rates.take(tenant)) is not None
    assert (rested.remaining, rested.reset_seconds) == (29, 2)


def test_a_refused_request_takes_nothing() -> None:
    clock, tenant = Clock(), uuid4()
    rates = Rates(1, clock)
    rates.take(tenant)
    for _ in range(100):
        rates.take(tenant)
    clock.now += 60
    assert (one := rates.take(tenant)) is not None
    assert one.allowed


def test_buckets_that_are_full_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    rates = Rates(60, clock)
    monkeypatch.setattr("gristmill.api.rates._MAX_TENANTS", 100)
    for _ in range(1000):
        rates.take(UUID(int=int(clock.now)))
        clock.now += 1
    assert len(rates._full_at) <= 101


# --- rates ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_counted_unless_it_is_set(caller: Caller) -> None:
    answer = await caller.get(BATCHES)
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers


@limited(requests_per_minute=3)
async def test_what_a_tenant_sends_too_much_is_a_429_that_says_when(callers: tuple[Caller, Caller]) -> None:
    caller, other = callers
    first = await caller.get(BATCHES)
    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == '"tenant";q=3;w=60'
    assert first.headers["ratelimit"] == '"tenant";r=2;t=20'
    missing = await caller.get(f"{BATCHES}/{uuid4()}")  # a refusal says it, too
    assert (missing.status_code, missing.headers["ratelimit"]) == (404, '"tenant";r=1;t=40')
    assert (await caller.send("HEAD", BATCHES)).headers["ratelimit"].startswith('"tenant";r=0;')

    refused = await caller.post(BATCHES, body(1))
    assert code_of(refused, 429) == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["ratelimit"].startswith('"tenant";r=0;t=')
    assert await factories.sql(caller.service.database, "SELECT count(*) FROM batch") == [0]
    assert (await other.get(BATCHES)).status_code == 200


@limited(requests_per_minute=2)
async def test_who_is_not_known_is_not_counted(callers: tuple[Caller, Caller]) -> None:
    caller, _ = callers
    for _ in range(5):
        answer = await replace(caller, key="gm_unknown").get(BATCHES)
        assert (answer.status_code, "ratelimit" in answer.headers) == (401, False)
        assert (await caller.service.client.get("/healthz")).status_code == 200
    assert (await caller.get(BATCHES)).status_code == 200


# --- quotas -----------------------------------------------------------------------------------------------------------


@limited(active_batches=2)
async def test_more_batches_than_a_tenant_may_have_are_refused_until_one_has_ended(
    callers: tuple[Caller, Caller],
) -> None:
    caller, other = callers
    database = caller.service.database
    first, _ = [await caller.batch(1, start_paused=True) for _ in range(2)]
    refused = await caller.post(BATCHES, body(1))
    assert code_of(refused, 429) == "quota_exceeded"
    assert refused.headers["retry-after"] == "30"
    for table in ("batch", "batch_count", "batch_schedule", "item", "span"):
        assert await factories.sql(database, f"SELECT count(*) FROM {table}") == [2]
    await other.batch(1)
    await caller.post(f"{BATCHES}/{first['id']}/cancel")
    await factories.sweep(database)
    await caller.batch(1)


@limited(pending_requests=10)
async def test_requests_count_until_they_have_ended(callers: tuple[Caller, Caller]) -> None:
    caller, _ = callers
    database = caller.service.database
    await caller.batch(6)
    assert code_of(await caller.post(BATCHES, body(5)), 429) == "quota_exceeded"
    await caller.batch(4)
    assert code_of(await caller.post(BATCHES, body(1)), 429) == "quota_exceeded"
    await factories.drain(database, await factories.make_worker(database))
    await caller.batch(10)


@limited(pending_requests=3)
async def test_a_file_and_a_directory_are_held_to_it_too(callers: tuple[Caller, Caller]) -> None:
    caller, _ = callers
    lines = b"\n".join(b'{"custom_id": "%d", "input": {"text": "a"}}' % n for n in range(4))
    file_id = await caller.upload(lines, "requests.jsonl")
    of_file = await caller.post(BATCHES, {"processor": "noop", "source": {"file_id": file_id}})
    assert code_of(of_file, 429) == "quota_exceeded"
    directory = await caller.directory(*[await caller.upload(b"%d" % n, f"{n}.txt") for n in range(4)])
    of_directory = await caller.post(BATCHES, {"processor": "reader", "source": {"directory_id": directory}})
    assert code_of(of_directory, 429) == "quota_exceeded"
    for table in ("batch", "item", "ingest"):
        assert await factories.sql(caller.service.database, f"SELECT count(*) FROM {table}") == [0]


@limited(active_batches=1)
async def test_a_retry_is_held_to_it_and_leaves_the_batch_as_it_was(callers: tuple[Caller, Caller]) -> None:
    caller, _ = callers
    database = caller.service.database
    batch = await caller.batch(2)
    await caller.post(f"{BATCHES}/{batch['id']}/cancel")
    await factories.sweep(database)
    await caller.batch(1)
    assert code_of(await caller.post(f"{BATCHES}/{batch['id']}/retry"), 429) == "quota_exceeded"
    assert (await caller.data(f"{BATCHES}/{batch['id']}"))["status"] == "cancelled"
    assert await factories.violations(database) == []


@limited(active_batches=5, pending_requests=20)
async def test_quotas_are_exact_when_many_ask_at_once(callers: tuple[Caller, Caller]) -> None:
    caller, other = callers
    answers = await asyncio.gather(*(one.post(BATCHES, body(3)) for one in [caller, other] * 12))
    assert Counter(answer.status_code for answer in answers) == {202: 10, 429: 14}
    made = await factories.sql(caller.service.database, "SELECT count(*) FROM batch GROUP BY tenant_id")
    assert made == [5, 5]


@limited(stored_bytes=10)
async def test_files_that_have_more_bytes_than_they_may_are_refused_and_leave_nothing(
    callers: tuple[Caller, Caller],
) -> None:
    caller, other = callers
    kept = await caller.upload(b"12345678")
    refused = await caller.post("/api/v1/files", files={"file": ("a.txt", b"123")})
    assert code_of(refused, 403) == "quota_exceeded"
    await caller.upload(b"90")
    full = await caller.post("/api/v1/files?filename=a.txt", content=b"1")
    assert code_of(full, 403) == "quota_exceeded"
    await other.upload(b"1234567890")
    assert await factories.sql(caller.service.database, "SELECT count(*) FROM file") == [3]
    assert await factories.sql(caller.service.database, "SELECT count(*) FROM file_discard") == [0]
    await caller.send("DELETE", f"/api/v1/files/{kept}")
    await caller.upload(b"12345678")


@limited(stored_bytes=10)
async def test_bytes_are_exact_when_many_upload_at_once(callers: tuple[Caller, Caller]) -> None:
    caller, _ = callers
    answers = await asyncio.gather(
        *(caller.post("/api/v1/files", files={"file": ("a.txt", b"123")}) for _ in range(8))
    )
    assert Counter(answer.status_code for answer in answers) == {201: 3, 403: 5}


async def test_every_route_that_knows_its_caller_documents_the_429(caller: Caller) -> None:
    document = (await caller.service.client.get("/openapi.json")).json()
    operations = [one for path in document["paths"].values() for one in path.values()]
    secured = [one for one in operations if "401" in one["responses"]]
    assert len(secured) > 40
    assert all("429" in one["responses"] for one in secured)
