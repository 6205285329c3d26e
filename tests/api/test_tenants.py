"""Tenants are apart: on every route another tenant's id is answered exactly like one that never was.

Seed 004, rules 13 and 15.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi.routing import APIRoute

import factories
from fakes import issuer
from gristmill.db import Database
from gristmill.domain.outcomes import Turn
from gristmill.store import keys
from gristmill.store.new_batches import NewWebhook
from service import Caller, Service, code_of, new_key, new_tenant, new_token

BODIES: dict[str, Any] = {
    "change_agent": {"name": "x"},
    "change_batch": {"name": "x"},
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


# What a route needs: `read` to look, `write` to do, of the resource that its path begins with …
RESOURCES = {
    "batches": "batches",
    "deliveries": "batches",
    "tasks": "batches",
    "agents": "agents",
    "configurations": "configurations",
    "files": "files",
    "directories": "files",
    "chats": "chats",
    "api-keys": "keys",
    "audit-log": "audit",
    "limits": keys.OPERATE,
}
# … and those where any credentials will do, or none.
ANY = {"list_processors", "get_processor", "list_presets"}
# A POST that makes nothing which is kept.
READS = {"link_file"}


def needed(route: APIRoute, method: str) -> str | None:
    """The scope; None: any credentials will do."""
    if route.name in ANY:
        return None
    resource = RESOURCES[route.path_format.split("/")[3]]
    if resource == keys.OPERATE:
        return resource
    reads = method == "GET" or route.name in READS
    return f"{resource}:{'read' if reads else 'write'}"


def guarded(service: Service) -> list[tuple[APIRoute, str, str]]:
    """Every route of the API, its methods, and a path of nothing that exists."""
    return [
        (route, method, route.path_format.format(**dict.fromkeys(route.param_convertors, str(uuid4()))))
        for route in routes(service)
        for method in sorted(route.methods)
        if route.path_format.startswith("/api/")
    ]


Holder = Callable[[Service, UUID, Sequence[str]], Awaitable[Caller]]


@pytest.mark.parametrize("holder", [new_key, new_token])
async def test_every_route_refuses_whoever_lacks_its_scope_and_nobody_else(
    with_tokens: Service, holder: Holder
) -> None:
    tenant_id = (await new_tenant(with_tokens)).tenant_id
    holders = {scope: await holder(with_tokens, tenant_id, [scope]) for scope in keys.SCOPES}
    needs = set()
    for route, method, path in guarded(with_tokens):
        need = needed(route, method)
        needs.add(need)
        for scope, one in holders.items():
            answer = await one.send(method, path)
            where = f"{scope} at {method} {route.path_format}"
            if scope == keys.OPERATE and holder is new_token:  # never a right by a token
                scope = ""
            if scope == need or need is None or (scope == "admin" and need != keys.OPERATE):
                assert answer.status_code not in (401, 403), where
            else:
                assert (code_of(answer, 403), where) == ("missing_scope", where)
                assert str(need) in answer.json()["message"]
    assert needs == {*keys.SCOPES, None} - {"admin"}  # no scope is for nothing


async def test_every_route_refuses_whoever_has_no_good_credentials(with_tokens: Service) -> None:
    tenant_id = (await new_tenant(with_tokens)).tenant_id
    good = await new_token(with_tokens, tenant_id, ["admin"])
    head, payload, signature = good.key.split(".")
    forged = ["gm_wrong", f"{head}.{payload}.{signature[::-1]}", issuer.token("HS256", 2, scope="admin")]
    tried = 0
    for _, method, path in guarded(with_tokens):
        for headers in [{}, *({"Authorization": f"Bearer {one}"} for one in forged), {"x-api-key": good.key}]:
            code_of(await with_tokens.client.request(method, path, headers=headers), 401)
        tried += 1
    assert tried >= 50  # none was overlooked


@pytest.mark.parametrize("holder", [new_key, new_token])
async def test_another_tenants_id_is_answered_like_an_unknown_one_on_every_route(
    with_tokens: Service, database: Database, holder: Holder
) -> None:
    service, other = with_tokens, await new_tenant(with_tokens)
    caller = await holder(service, (await new_tenant(service)).tenant_id, ["admin"])
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
    assert tried == 37  # a new route with an id belongs here by itself; a route lost shows
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
