"""Tenants are apart: on every route another tenant's id is answered exactly like one that never was.

Seed 004, rules 13 and 15.
"""

from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi.routing import APIRoute

import factories
from gristmill.db import Database
from gristmill.domain.outcomes import Turn
from gristmill.store.batches import NewWebhook
from service import Caller, Service

BODIES: dict[str, Any] = {"change_agent": {"name": "x"}, "replace_agent": {"name": "x"}}


async def belongings(owner: Caller, database: Database) -> dict[str, str]:
    """One of everything that has an id."""
    worker = await factories.make_worker(database)
    webhook = NewWebhook("https://a.example.com/", ("completed",))
    batch_id = await factories.make_batch(database, 1, tenant_id=owner.tenant_id, webhook=webhook)
    [lease] = await factories.claim(database, worker, 1)
    ended = factories.success(lease, 0, turn=Turn("hello", "hi", None))
    await factories.record(database, worker, factories.Flush({lease.id: 0}, [ended]), alone=True)
    [result] = await owner.data(f"/api/v1/batches/{batch_id}/results")
    [delivery] = await owner.data(f"/api/v1/batches/{batch_id}/deliveries")
    return {
        "batch_id": str(batch_id),
        "custom_id": "item-0",
        "agent_id": await owner.agent(),
        "file_id": await owner.upload(b"secret"),
        "history_id": str(result["history_id"]),
        "delivery_id": delivery["id"],
    }


def routes(service: Service) -> list[APIRoute]:
    found: list[APIRoute] = []
    waiting = list(service.app.routes)
    while waiting:
        one: Any = waiting.pop()
        if isinstance(one, APIRoute):
            found.append(one)
        else:
            waiting += getattr(getattr(one, "original_router", None), "routes", [])
    return found


def without_request_id(answer: httpx2.Response) -> Any:
    body = answer.json()
    body["error"].pop("request_id")
    return answer.status_code, body


async def test_another_tenants_id_is_answered_like_an_unknown_one_on_every_route(
    service: Service, caller: Caller, other: Caller, database: Database
) -> None:
    theirs = await belongings(other, database)
    unknown = {name: str(uuid4()) for name in theirs} | {"custom_id": "item-0", "history_id": "999999999"}
    tried = 0
    for route in routes(service):
        if not set(route.param_convertors) & theirs.keys():
            continue
        for method in route.methods:
            more = {"json": BODIES[route.name]} if route.name in BODIES else {}
            foreign = await caller.send(method, route.path_format.format(**theirs), **more)
            never = await caller.send(method, route.path_format.format(**unknown), **more)
            assert without_request_id(foreign) == without_request_id(never), route.name
            assert foreign.status_code == 404, route.name
            tried += 1
    assert tried == 19  # a new route with an id belongs here by itself; a route lost shows
    shown = await other.data(f"/api/v1/batches/{theirs['batch_id']}")
    assert (shown["status"], (await other.data(f"/api/v1/agents/{theirs['agent_id']}"))["version"]) == (
        "completed",
        1,
    )


@pytest.mark.parametrize("path", ["batches", "agents", "files", "chats"])
async def test_lists_show_only_the_callers_own(
    caller: Caller, other: Caller, database: Database, path: str
) -> None:
    await belongings(other, database)
    answer = (await caller.get(f"/api/v1/{path}")).json()
    assert (answer["data"], answer["pagination"]["total_records"]) == ([], 0)
    assert len(await other.data(f"/api/v1/{path}")) == 1


async def test_no_answer_names_a_tenant(caller: Caller, database: Database) -> None:
    mine = await belongings(caller, database)
    for path in [
        f"batches/{mine['batch_id']}",
        f"batches/{mine['batch_id']}/results",
        f"agents/{mine['agent_id']}",
        f"files/{mine['file_id']}",
        f"chats/{mine['history_id']}/messages",
    ]:
        assert str(caller.tenant_id) not in (await caller.get(f"/api/v1/{path}")).text
