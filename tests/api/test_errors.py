"""Refusals: one shape for all of them, and never a trace."""

import asyncio
import logging
import os
import re
import signal

import asyncpg
import httpx2
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gristmill.api import batches as routes
from gristmill.api import errors
from gristmill.api.app import create_app
from gristmill.db import Database
from gristmill.embedded.postgres import EmbeddedPostgres
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.local import LocalStorage
from gristmill.store import schema
from service import VAULT, Caller, Service, code_of, new_tenant


async def test_an_unknown_route_and_method_have_the_envelope_too(caller: Caller) -> None:
    assert code_of(await caller.get("/api/v1/nothing"), 404) == "not_found"
    assert code_of(await caller.get("/api/v2/batches"), 404) == "not_found"
    answer = await caller.send("DELETE", "/api/v1/batches")
    assert code_of(answer, 405) == "method_not_allowed"
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_a_trailing_slash_leads_nowhere_else(caller: Caller) -> None:
    answer = await caller.get("/api/v1/batches/")
    assert code_of(answer, 404) == "not_found"
    assert "location" not in answer.headers


async def test_the_error_object_has_the_members_of_rfc_9457(caller: Caller) -> None:
    error = (await caller.get("/api/v1/batches?limit=0")).json()["error"]
    assert set(error) == {"type", "code", "title", "status", "detail", "request_id", "errors"}
    assert error["errors"] == [
        {"pointer": "limit", "code": "out_of_range", "detail": "limit: must be 1 to 1000"}
    ]
    assert error["code"] == "out_of_range"


async def test_every_answer_has_a_request_id_of_its_own(caller: Caller) -> None:
    ids = [
        (await caller.get(path)).headers["x-request-id"]
        for path in ("/healthz", "/api/v1/batches", "/nothing")
    ]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)


async def test_an_unforeseen_error_is_a_500_that_says_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(routes, "view", broken)
    answer = await caller.post(
        "/api/v1/batches", {"processor": "noop", "requests": [{"custom_id": "a", "input": {"text": ""}}]}
    )
    assert code_of(answer, 500) == "internal_error"
    assert "secret inside" not in answer.text
    assert "Traceback" not in answer.text
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.TooManyConnectionsError("sorry"),
        asyncpg.DiskFullError("no space"),
        asyncpg.ConnectionDoesNotExistError("closed"),
        asyncpg.InterfaceError("connection is closed"),
        DBAPIError("SELECT 1", {}, asyncpg.AdminShutdownError("bye")),
        PoolTimeoutError("too many"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_way_to_lose_the_database_is_503_with_retry_after(error: Exception) -> None:
    answer = errors.response({"request_id": "req_1"}, error)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "sorry" not in bytes(answer.body).decode()


async def test_a_postgres_that_dies_is_503_until_it_is_back(
    durable_postgres: EmbeddedPostgres, settings: Settings
) -> None:
    database = await Database(durable_postgres.url).open()
    await schema.migrate(database)
    async with HttpSession(allow_private=False) as http:
        app = create_app(
            database,
            VAULT,
            settings,
            wake=lambda *_: None,
            http=http,
            storage=LocalStorage(settings.data_dir),
        )
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            caller = await new_tenant(Service(app, database, client, asyncio.Event()))
            batch = await caller.batch(2)
            os.kill(durable_postgres.process_id, signal.SIGQUIT)
            while durable_postgres.alive:
                await asyncio.sleep(0.01)
            for path in ("/api/v1/batches", f"/api/v1/batches/{batch['id']}/results", "/api/v1/agents"):
                assert code_of(await caller.get(path), 503) == "unavailable"
            assert (await client.get("/readyz")).status_code == 503
            await asyncio.to_thread(durable_postgres.revive)
            assert (await caller.data(f"/api/v1/batches/{batch['id']}"))["total_requests"] == 2
            assert (await caller.get("/api/v1/agents")).status_code == 200
    await database.close()


async def test_without_a_database_every_route_is_503_and_the_process_alive(settings: Settings) -> None:
    nowhere = Database("postgresql://nobody:nothing@127.0.0.1:1/none", timeout_seconds=1)
    async with HttpSession(allow_private=False) as http:
        app = create_app(
            nowhere, VAULT, settings, wake=lambda *_: None, http=http, storage=LocalStorage(settings.data_dir)
        )
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            for path in ("batches", "agents", "files", "chats", "processors"):
                answer = await client.get(f"/api/v1/{path}", headers={"x-api-key": "gm_any"})
                assert code_of(answer, 503) == "unavailable"
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["database"]) == (503, False)
    await nowhere.close()


@pytest.mark.parametrize(
    "error",
    [asyncpg.CharacterNotInRepertoireError("x"), asyncpg.NumericValueOutOfRangeError("x")],
    ids=lambda error: type(error).__name__,
)
def test_a_value_that_only_the_database_refuses_is_a_400(error: Exception) -> None:
    assert errors.response({"request_id": "req_1"}, error).status_code == 400


async def test_a_value_that_only_the_driver_refuses_is_a_400(database: Database) -> None:
    async with database.connection() as connection:
        with pytest.raises(asyncpg.DataError) as caught:
            await connection.fetchval("SELECT $1::int", 2**40)
    assert errors.response({"request_id": "req_1"}, caught.value).status_code == 400


async def test_the_log_has_one_line_per_request_and_nothing_that_was_sent(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gristmill")
    caller = await new_tenant(service)
    requests = [{"custom_id": "patient\r\nzero", "input": {"text": "a diagnosis"}}]
    await caller.post("/api/v1/batches?colour=secret", {"processor": "noop", "requests": requests})
    await caller.get("/api/v1/batches?name=diagnosis")
    await caller.get("/api/v1/nothing/diagnosis")
    lines = [record for record in caplog.records if record.name == "gristmill.api.front"]
    assert [(record.route, record.status) for record in lines] == [  # type: ignore[attr-defined]
        ("/api/v1/batches", 202),
        ("/api/v1/batches", 200),
        ("unmatched", 404),
    ]
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    for secret in ("diagnosis", "patient", "secret", caller.key):
        assert secret not in logged
