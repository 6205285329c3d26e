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

BODIES: dict[str, Any] = {
    "change_agent": {"name": "x"},
    "replace_agent": {"name": "x"},
    "change_configuration": {"name": "x"},
    "add_directory_files": {"file_ids": [str(uuid4())]},
}


async def belongings(owner: Caller, database: Database) -> dict[str, str]:
    """One of everything that has an id."""
    worker = await factories.make_worker(database)
    webhook = NewWebhook("https://a.example.com/", ("completed",))
    batch_id = await factories.make_batch(database, 1, tenant_id=owner.tenant_id, webhook=webhook)
    [lease] = await factories.claim(database, worker, 1)
    ended = factories.success(lease, 0, turn=Turn("hello", "hi", None))
    await factories.record(database, worker, factories.Flush({lease.id: 0}, [ended]), alone=True)
    [result] = await owner.data(f"/api/v1/batches/{batch_id}/results")
    file_id = await owner.upload(b"secret")
    [delivery] = await owner.data(f"/api/v1/batches/{batch_id}/deliveries")
    return {
        "batch_id": str(batch_id),
        "custom_id": "item-0",
        "task_id": f"{batch_id}-0",
        "agent_id": await owner.agent(),
        "configuration_id": await owner.configuration(),
        "file_id": file_id,
        "directory_id": await owner.directory(file_id),
        "history_id": str(result["history_id"]),
        "delivery_id": delivery["id"],
        "key_id": (await owner.data("/api/v1/api-keys"))[0]["id"],
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
    unknown = {name: str(uuid4()) for name in theirs}
    unknown |= {"custom_id": "item-0", "task_id": f"{uuid4()}-0", "history_id": "999999999"}
    unknown |= {"configuration_id": f"cfg-{uuid4()}"}
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
    assert tried == 34  # a new route with an id belongs here by itself; a route lost shows
    shown = await other.data(f"/api/v1/batches/{theirs['batch_id']}")
    assert (shown["status"], (await other.data(f"/api/v1/agents/{theirs['agent_id']}"))["version"]) == (
        "completed",
        1,
    )


@pytest.mark.parametrize(
    "path", ["batches", "agents", "configurations", "files", "directories", "chats", "tasks"]
)
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
        f"directories/{mine['directory_id']}",
        f"directories/{mine['directory_id']}/files",
        f"chats/{mine['history_id']}/messages",
    ]:
        assert str(caller.tenant_id) not in (await caller.get(f"/api/v1/{path}")).text


async def test_another_tenants_file_cannot_be_put_into_a_directory_or_taken_out(
    caller: Caller, other: Caller
) -> None:
    theirs = await other.upload(b"secret")
    mine = await caller.directory(await caller.upload(b"x"))
    answers = [
        await caller.post(f"/api/v1/directories/{mine}/files", {"file_ids": [one]})
        for one in (theirs, str(uuid4()))
    ]
    assert without_request_id(answers[0]) == without_request_id(answers[1])
    assert answers[0].status_code == 400
    out = [
        await caller.send("DELETE", f"/api/v1/directories/{mine}/files/{one}")
        for one in (theirs, str(uuid4()))
    ]
    assert without_request_id(out[0]) == without_request_id(out[1])
    assert len(await caller.data(f"/api/v1/directories/{mine}/files")) == 1
