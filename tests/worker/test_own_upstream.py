"""A batch's own key and model on their way to the endpoint, beside batches without."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
import pytest
from pydantic import SecretStr

from factories import get, make_batch, sql
from fakes.librarian import Librarian
from fakes.llm import FakeLLM
from gristmill.db import Database
from gristmill.processors import get as processor
from gristmill.processors.secrets import upstream_binding
from gristmill.settings import Settings
from gristmill.store import retries
from gristmill.store.new_batches import NewItem, NewUpstream
from gristmill.upstream.client import Upstream
from mill import VAULT, ended, working

OPERATORS, MINE, YOURS = "sk-of-the-operator-012345", "sk-mine-0123456789", "sk-yours-0123456789"
TEXT = "The water mill grinds grain to flour, and the miller keeps the water wheel turning."
BODY = {"messages": [{"role": "user", "content": "hello"}]}
CONFIGS = {
    "tag": ("{}", {"text": TEXT}),
    "parse": ('{"mode": "agentic"}', {"text": TEXT}),
    "completion": ("{}", BODY),
    "agent_message": (
        orjson.dumps(
            {
                "agent_id": str(UUID(int=5)),
                "agents": {str(UUID(int=5)): {"agent_id": str(UUID(int=5)), "version": 1, "name": "a"}},
            }
        ).decode(),
        {"message": "hello"},
    ),
}


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM() as server:
        yield server


@asynccontextmanager
async def at_work(database: Database, llm: FakeLLM, name: str) -> AsyncIterator[None]:
    settings = Settings(llm_base_url=llm.url, llm_api_key=SecretStr(OPERATORS), llm_model="operators-model")
    async with Upstream(settings) as upstream, working(database, processor(name), upstream=upstream):
        yield


async def make(
    database: Database, name: str, key: str | None, model: str | None = None, bound_to: str | None = None
) -> UUID:
    config, given = CONFIGS[name]
    item = NewItem("item-0", orjson.dumps(given).decode())
    batch_id = await make_batch(database, [item], processor=name, config=config, start_paused=True)
    await bring(database, batch_id, upstream(batch_id, key, model, bound_to))
    await sql(database, "UPDATE batch SET status = 'in_progress'")
    await sql(database, "UPDATE batch_schedule SET paused = false")
    return batch_id


def upstream(
    batch_id: UUID, key: str | None, model: str | None = None, bound_to: str | None = None
) -> NewUpstream:
    sealed = VAULT.encrypt(key.encode(), bound_to or upstream_binding(batch_id)) if key else None
    return NewUpstream(model, sealed)


async def bring(database: Database, batch_id: UUID, one: NewUpstream) -> None:
    statement = "UPDATE batch SET upstream = $1, upstream_key = $2 WHERE id = $3"
    await sql(database, statement, one.as_json(), one.key, batch_id)


async def error(database: Database) -> dict[str, Any]:
    [found] = await sql(database, "SELECT error FROM result")
    told: dict[str, Any] = orjson.loads(found)
    return told


def calls(llm: FakeLLM) -> list[tuple[str | None, str]]:
    return [(request.headers.get("authorization"), request.body["model"]) for request in llm.requests]


@pytest.mark.parametrize("name", sorted(CONFIGS))
async def test_every_processor_that_calls_the_model_uses_the_batch_s_own_key_and_model(
    database: Database, llm: FakeLLM, name: str
) -> None:
    if name in ("tag", "parse"):
        llm.script = Librarian()
    batch_id = await make(database, name, MINE, "my-model")
    async with at_work(database, llm, name):
        await ended(database, batch_id)
    assert calls(llm) == [(f"Bearer {MINE}", "my-model")]
    assert (await get(database, batch_id)).success == 1
    assert await sql(database, "SELECT upstream_key FROM batch") == [None]


async def test_batches_side_by_side_each_call_with_their_own_on_one_session(
    database: Database, llm: FakeLLM
) -> None:
    mine = await make(database, "completion", MINE)
    yours = await make(database, "completion", YOURS, "your-model")
    nobodys = await make_batch(
        database, [NewItem("item-0", orjson.dumps(BODY).decode())], processor="completion"
    )
    async with at_work(database, llm, "completion"):
        await ended(database, mine, yours, nobodys)
    assert sorted(calls(llm)) == sorted(
        [
            (f"Bearer {MINE}", "operators-model"),
            (f"Bearer {YOURS}", "your-model"),
            (f"Bearer {OPERATORS}", "operators-model"),
        ]
    )


async def test_a_retry_calls_with_the_key_that_it_brought_on_the_same_worker(
    database: Database, llm: FakeLLM
) -> None:
    llm.misbehave("status:401")
    batch_id = await make(database, "completion", MINE)
    async with at_work(database, llm, "completion"):
        await ended(database, batch_id)
        tenant_id = (await get(database, batch_id)).tenant_id
        async with database.transaction() as tx:
            again = upstream(batch_id, YOURS)
            await retries.retry(tx, tenant_id, batch_id, upstream=again, key_given=True)
        await ended(database, batch_id)
    assert [key for key, _ in calls(llm)] == [f"Bearer {MINE}", f"Bearer {YOURS}"]
    assert (await get(database, batch_id)).success == 1


async def test_what_an_endpoint_says_of_the_key_is_told_without_the_key(
    database: Database, llm: FakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    llm.misbehave("status:400")  # quotes the Authorization header
    batch_id = await make(database, "completion", MINE)
    with caplog.at_level("DEBUG"):
        async with at_work(database, llm, "completion"):
            await ended(database, batch_id)
    told = await error(database)
    assert "This is a 400" in told["message"]
    assert MINE not in str(told)
    assert MINE not in caplog.text


@pytest.mark.parametrize(
    ("fault", "kind"), [("status:401", "upstream_unauthorized"), ("status:402", "upstream_payment_required")]
)
async def test_a_key_that_is_refused_is_said_to_be_the_batch_s_own(
    database: Database, llm: FakeLLM, fault: str, kind: str
) -> None:
    llm.misbehave(fault)
    batch_id = await make(database, "completion", MINE)
    async with at_work(database, llm, "completion"):
        await ended(database, batch_id)
    told = await error(database)
    assert told["type"] == kind
    assert "upstream.api_key" in told["suggestion"]
    assert "GRISTMILL" not in told["suggestion"]


@pytest.mark.parametrize("case", ["bound to another batch", "gone"])
async def test_the_operator_s_key_never_takes_the_place_of_one_that_cannot_be_used(
    database: Database, llm: FakeLLM, case: str
) -> None:
    batch_id = await make(database, "completion", MINE, bound_to="upstream:another")
    if case == "gone":
        await sql(database, "UPDATE batch SET upstream_key = NULL")
    async with at_work(database, llm, "completion"):
        await ended(database, batch_id)
    assert (await error(database))["type"] == "secret_unreadable"
    assert llm.requests == []
