"""A create that finds a worker in its process, as `gristmill serve` has one."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx2
import pytest

from factories import get, sql, violations
from gristmill.api.app import create_app
from gristmill.db import Database
from gristmill.domain.outcomes import Outcome
from gristmill.domain.states import BatchStatus
from gristmill.net.session import HttpSession
from gristmill.processors.base import Context
from gristmill.settings import Settings
from gristmill.storage.opening import open_storage
from mill import NoConfig, Script, Scripted, eventually, working
from service import VAULT, Caller, Service, new_tenant

BATCHES = "/api/v1/batches"
GATED = {"processor": "noop", "requests": [{"custom_id": f"r{n}", "input": {"text": "a"}} for n in range(3)]}


class Gated(Scripted):
    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        return await super().run(Script(do="gate"), context)


@pytest.fixture
def scripted() -> Scripted:
    return Gated()


@pytest.fixture(params=[2, 8])
async def at_work(
    request: pytest.FixtureRequest,
    database: Database,
    settings: Settings,
    http: HttpSession,
    scripted: Scripted,
) -> AsyncIterator[Service]:
    """With so many slots. What is not born leased stays where it is: the bell reaches nobody."""
    woken = asyncio.Event()
    async with working(
        database, scripted, lease_seconds=60.0, concurrency=request.param, poll_seconds=3600.0
    ) as worker:

        async def waits() -> bool:
            return bool(worker._items.news._waiters)  # it has begun, and its first claim has found nothing

        await eventually(waits)
        app = create_app(
            database,
            VAULT,
            settings,
            wake=lambda *_: woken.set(),
            bear=worker.births.of,
            http=http,
            storage=open_storage(settings),
        )
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://attacker.test") as client:
            yield Service(app, database, client, woken)


async def test_the_first_requests_start_with_the_create_and_the_bell_rings_for_the_rest(
    request: pytest.FixtureRequest, at_work: Service, database: Database, scripted: Scripted
) -> None:
    slots: int = request.node.callspec.params["at_work"]
    caller: Caller = await new_tenant(at_work)
    key = {"Idempotency-Key": str(uuid4())}
    made = await caller.post(BATCHES, GATED, headers=key)
    assert (made.status_code, made.json()["data"]["pending_requests"]) == (202, 3)
    batch_id = UUID(made.json()["data"]["id"])

    async def started() -> bool:
        return scripted.at_gate == min(slots, 3)

    await eventually(started)
    assert at_work.woken.is_set() == (slots < 3)
    again = await caller.post(BATCHES, GATED, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await sql(database, "SELECT count(*) FROM lease") == [1]
    batch = await get(database, batch_id, caller.tenant_id)
    assert (batch.status, batch.processing) == (BatchStatus.IN_PROGRESS, min(slots, 3))
    scripted.gate.set()

    async def recorded() -> bool:
        return (await get(database, batch_id, caller.tenant_id)).success == 3

    if slots >= 3:
        await eventually(recorded)
    assert await violations(database) == []


async def test_a_refused_create_starts_nothing(at_work: Service, scripted: Scripted) -> None:
    caller: Caller = await new_tenant(at_work)
    twice = [*GATED["requests"], {"custom_id": "r0", "input": {"text": "a"}}]
    assert (await caller.post(BATCHES, GATED | {"requests": twice})).status_code == 400
    assert scripted.started == []
