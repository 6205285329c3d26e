"""Creates of any number of requests: checked as they come, and in a file of the batch's own beyond what fits."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gristmill.api import batches, inline
from gristmill.api.auth import caller as authenticate
from gristmill.api.envelope import answer
from gristmill.api.parts import parts
from gristmill.db import Database
from gristmill.domain.errors import NotFound
from gristmill.store.origins import Origin
from gristmill.worker.discards import Discards
from service import Caller, Service, problems

router = APIRouter(include_in_schema=False)
PATH = "/probe/inline"


class Given:
    """What the next call makes its batch of."""

    requests: AsyncIterator[dict[str, Any]]
    body: dict[str, Any]
    most = 100_000


@router.post(PATH)
async def make(request: HttpRequest) -> Response:
    key = await authenticate(request, "batches:write")
    of = parts(request)
    given = request.app.state.given
    batch = await inline.make(
        of, key, given.body, given.requests, origin=Origin("probe", facts="{}"), most=given.most
    )
    return answer(batches.view(batch) | {"dialect": batch.dialect})


@pytest.fixture
def given(service: Service) -> Given:
    service.app.include_router(router)
    service.app.state.given = given = Given()
    given.body = {"processor": "noop"}
    return given


async def counted(count: int, **changed: Any) -> AsyncIterator[dict[str, Any]]:
    """`changed`: `_7` is request 7."""
    for n in range(count):
        yield changed.get(f"_{n}", {"custom_id": f"c-{n}", "input": {"text": str(n)}})


async def made(caller: Caller) -> dict[str, Any]:
    answered = await caller.post(PATH)
    assert answered.status_code == 200, answered.text
    data: dict[str, Any] = answered.json()["data"]
    return data


async def rows(database: Database, table: str) -> int:
    async with database.connection() as connection:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
        return found


async def test_what_fits_into_a_create_is_stored_with_it(
    caller: Caller, given: Given, database: Database
) -> None:
    given.requests = counted(1000)
    batch = await made(caller)
    assert (batch["total_requests"], batch["waiting_reason"]) == (1000, "no worker for this processor")
    assert batch["dialect"] == "probe"
    assert await rows(database, "ingest") == 0
    assert caller.service.woken.is_set()


async def test_more_requests_go_into_a_file_that_is_the_batchs_alone(
    caller: Caller, given: Given, database: Database
) -> None:
    given.requests = counted(2501)
    batch = await made(caller)
    assert (batch["total_requests"], batch["waiting_reason"]) == (2501, "ingesting")
    assert await caller.data("/api/v1/files") == []
    async with database.connection() as connection:
        owned = await connection.fetchval("SELECT file_id FROM ingest WHERE owned")
    assert (await caller.get(f"/api/v1/files/{owned}")).status_code == 404
    named = {"processor": "noop", "source": {"file_id": str(owned), "format": "jsonl"}}
    assert problems(await caller.post("/api/v1/batches", named)) == {"/source/file_id": "unknown_file"}
    assert await rows(database, "file_discard") == 0


async def test_large_requests_go_into_a_file_however_few_they_are(
    caller: Caller, given: Given, database: Database
) -> None:
    large = {"text": "x" * 900_000}
    given.requests = counted(4, **{f"_{n}": {"custom_id": f"{n}", "input": large} for n in range(4)})
    assert (await made(caller))["waiting_reason"] == "ingesting"


async def test_everything_wrong_is_said_with_its_place_among_all_and_nothing_is_left(
    caller: Caller, given: Given, database: Database, service: Service
) -> None:
    given.requests = counted(
        3000,
        _5={"custom_id": "c-5", "input": {"text": 5}},
        _1700={"custom_id": "c-3", "input": {"text": ""}},
        _1800={"custom_id": "c-1799", "input": {"text": ""}},
        _2001={"input": {"text": ""}},
        _2002={"custom_id": ["a"], "input": {"text": ""}},
        _2999={"custom_id": "large", "input": {"text": "x" * 1024 * 1024}},
    )
    found = problems(await caller.post(PATH))
    assert found == {
        "/requests/5/input/text": "string_type",
        "/requests/1700/custom_id": "duplicate_custom_id",
        "/requests/1800/custom_id": "duplicate_custom_id",
        "/requests/2001/custom_id": "missing",
        "/requests/2002/custom_id": "string_type",
        "/requests/2999/input": "item_too_large",
    }
    assert (await rows(database, "batch"), await rows(database, "ingest")) == (0, 0)
    assert await rows(database, "file_discard") == 0  # given up at once
    assert await Discards(database, service.app.state.parts.storage).step() == 0


async def test_bad_requests_are_left_to_fail_alone_where_that_was_asked_for(
    caller: Caller, given: Given, database: Database
) -> None:
    def bad() -> dict[str, Any]:
        return {"custom_id": "bad", "input": {"text": 5}}

    given.body = {"processor": "noop", "on_invalid": "fail_items"}
    given.requests = counted(1500, _3=bad(), _1200={"custom_id": "c-1", "input": {"text": ""}})
    assert problems(await caller.post(PATH)) == {"/requests/1200/custom_id": "duplicate_custom_id"}
    given.requests = counted(1500, _3=bad())
    assert (await made(caller))["total_requests"] == 1500
    async with database.connection() as connection:
        assert '"fail_items":true' in await connection.fetchval("SELECT options FROM ingest")


@pytest.mark.parametrize(("count", "code"), [(0, "too_short"), (1201, "too_long")])
async def test_none_and_too_many_are_refused(caller: Caller, given: Given, count: int, code: str) -> None:
    given.most, given.requests = 1200, counted(count)
    assert problems(await caller.post(PATH)) == {"/requests": code}


async def test_options_are_checked_behind_a_file_of_requests_too(
    caller: Caller, given: Given, database: Database
) -> None:
    given.body = {"processor": "noop", "priority": 1000}
    given.requests = counted(1001)
    assert problems(await caller.post(PATH)) == {"/priority": "less_than_equal"}
    assert await rows(database, "file_discard") == 0


async def test_two_hundred_megabytes_of_requests_take_a_few_of_memory(
    caller: Caller, given: Given, database: Database
) -> None:
    text = "x" * 100_000
    tracemalloc.start()
    given.requests = counted(
        2000, **{f"_{n}": {"custom_id": f"{n}", "input": {"text": text}} for n in range(2000)}
    )
    batch = await made(caller)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batch["waiting_reason"] == "ingesting"
    assert peak < 60_000_000, peak
    async with database.connection() as connection:
        file_id: UUID = await connection.fetchval("SELECT file_id FROM ingest")
    storage = caller.service.app.state.parts.storage
    path = storage.path(f"files/{caller.tenant_id}/{file_id}")
    assert await asyncio.to_thread(lambda: path.stat().st_size) > 200_000_000


async def test_requests_whose_sender_goes_away_leave_nothing(
    caller: Caller, given: Given, database: Database
) -> None:
    async def broken() -> AsyncIterator[dict[str, Any]]:
        async for one in counted(2500):
            yield one
        raise NotFound("as if the connection had broken")

    given.requests = broken()
    assert (await caller.post(PATH)).status_code == 404
    assert (await rows(database, "batch"), await rows(database, "file_discard")) == (0, 0)
