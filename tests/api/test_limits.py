"""Limits of the service over the API: who may set them, what is refused, and what is noted."""

from typing import Any
from urllib.parse import quote

import pytest

from documented import check, operations
from factories import claim, make_batch, make_worker, sql
from gristmill.domain import circuits
from gristmill.store import keys
from service import VAULT, Caller, Service, code_of, new_key, new_tenant, problems

LIMITS = "/api/v1/limits"


@pytest.fixture
async def operator(service: Service) -> Caller:
    return await new_key(service, (await new_tenant(service)).tenant_id, ["operate", "audit:read"])


async def put(caller: Caller, path: str, **body: Any) -> dict[str, Any]:
    answer = await caller.send("PUT", f"{LIMITS}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def test_a_limit_is_set_shown_replaced_listed_and_removed(operator: Caller) -> None:
    made = await put(operator, "upstream/model", max_in_flight=10, requests_per_minute=600)
    assert made == {
        "kind": "upstream",
        "name": "model",
        "max_in_flight": 10,
        "requests_per_minute": 600,
        "tokens_per_minute": None,
        "changed_at": made["changed_at"],
        "in_flight": 0,
        "granted": None,
    }
    assert await operator.data(f"{LIMITS}/upstream/model") == made
    changed = await put(operator, "upstream/model", tokens_per_minute=5)
    assert (changed["max_in_flight"], changed["tokens_per_minute"]) == (None, 5)
    await put(operator, "processor/noop", max_in_flight=3)
    first = (await operator.get(f"{LIMITS}?limit=1")).json()
    assert [one["kind"] for one in first["data"]] == ["processor"]
    assert first["pagination"]["total_records"] == 2
    cursor = first["pagination"]["next_cursor"]
    assert [one["kind"] for one in await operator.data(f"{LIMITS}?cursor={cursor}")] == ["upstream"]
    assert (await operator.send("DELETE", f"{LIMITS}/upstream/model")).status_code == 204
    code_of(await operator.get(f"{LIMITS}/upstream/model"), 404)
    code_of(await operator.send("DELETE", f"{LIMITS}/upstream/model"), 404)


async def test_a_body_that_comes_with_a_removal_is_refused_as_documented(
    service: Service, operator: Caller
) -> None:
    await put(operator, "upstream/model", max_in_flight=10)
    for content, sort in (("x", "text/plain"), ("{", "application/json"), (" " * 5000, "application/json")):
        answer = await operator.send(
            "DELETE", f"{LIMITS}/upstream/model", content=content, headers={"content-type": sort}
        )
        assert answer.status_code in (400, 413, 415)
        check(answer, operations(service.app))
    assert (await operator.data(f"{LIMITS}/upstream/model"))["max_in_flight"] == 10


async def test_what_is_in_flight_of_a_tenant_and_a_processor_is_shown(
    service: Service, operator: Caller
) -> None:
    async with service.database.engine.begin() as connection:
        tenant_id = await keys.ensure_tenant(connection, "acme")
    await put(operator, "tenant/acme", max_in_flight=9)
    await put(operator, "processor/noop", max_in_flight=9)
    await make_batch(service.database, 5, tenant_id=tenant_id)
    await claim(service.database, await make_worker(service.database), 4)
    shown = await operator.data(LIMITS)
    assert [(one["kind"], one["in_flight"]) for one in shown] == [("processor", 4), ("tenant", 4)]


async def test_an_endpoint_may_be_named_by_its_url_which_is_not_kept(operator: Caller) -> None:
    url = "https://example.com/hook?key=secret"
    made = await put(operator, f"upstream/{quote(url, safe='')}", requests_per_minute=60)
    assert made["name"] == circuits.name(url, None, VAULT.fingerprint)
    assert (await put(operator, f"upstream/{made['name']}", max_in_flight=1))["name"] == made["name"]
    assert len(await operator.data(LIMITS)) == 1


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("upstream/model", {}, {"": "limit_missing"}),
        ("upstream/model", {"max_in_flight": None}, {"": "limit_missing"}),
        ("upstream/model", {"max_in_flight": 0}, {"/max_in_flight": "greater_than_equal"}),
        ("upstream/model", {"max_in_flight": "5"}, {"/max_in_flight": "int_type"}),
        ("upstream/model", {"max_in_flight": 10**12}, {"/max_in_flight": "less_than_equal"}),
        ("upstream/model", {"max": 5}, {"/max": "extra_forbidden"}),
        ("processor/noop", {"requests_per_minute": 5}, {"/requests_per_minute": "not_of_this_kind"}),
        ("processor/noop", {"tokens_per_minute": 5}, {"/tokens_per_minute": "not_of_this_kind"}),
        (f"upstream/url:{'a' * 32}", {"tokens_per_minute": 5}, {"/tokens_per_minute": "not_of_this_kind"}),
    ],
)
async def test_a_limit_that_says_nothing_sensible_is_refused(
    operator: Caller, path: str, body: dict[str, Any], wrong: dict[str, str]
) -> None:
    assert problems(await operator.send("PUT", f"{LIMITS}/{path}", json=body)) == wrong
    assert await operator.data(LIMITS) == []


@pytest.mark.parametrize(
    "path", ["tenant/nobody", "processor/nothing", "upstream/nothing", "something/model", "tenant/%00"]
)
async def test_what_is_not_there_cannot_be_limited(operator: Caller, path: str) -> None:
    answer = await operator.send("PUT", f"{LIMITS}/{path}", json={"max_in_flight": 5})
    assert code_of(answer, 404) == "not_found"


async def test_an_administrator_of_a_tenant_may_neither_see_nor_change_what_all_tenants_get(
    caller: Caller,
) -> None:
    for method in ("PUT", "GET", "DELETE"):
        assert code_of(await caller.send(method, f"{LIMITS}/upstream/model"), 403) == "missing_scope"
    given = await caller.post("/api/v1/api-keys", {"name": "x", "scopes": ["operate"]})
    assert code_of(given, 403) == "exceeds_scopes"


async def test_over_the_api_nobody_makes_or_rotates_another_key_that_operates(service: Service) -> None:
    tenant_id = (await new_tenant(service)).tenant_id
    one = await new_key(service, tenant_id, ["operate", "keys:write", "keys:read"])
    await new_key(service, tenant_id, ["operate"])
    given = await one.post("/api/v1/api-keys", {"name": "x", "scopes": ["operate"]})
    assert code_of(given, 403) == "exceeds_scopes"
    other, itself = (await one.data("/api/v1/api-keys"))[:2]
    for act in ("rotate", "revoke"):
        refused = await one.post(f"/api/v1/api-keys/{other['id']}/{act}")
        assert code_of(refused, 403) == "exceeds_scopes"
    assert (await one.post(f"/api/v1/api-keys/{itself['id']}/rotate")).status_code == 201


async def test_who_set_and_removed_a_limit_is_noted(operator: Caller) -> None:
    await put(operator, "upstream/model", max_in_flight=10)
    await operator.send("DELETE", f"{LIMITS}/upstream/model")
    removed, made = await operator.data("/api/v1/audit-log")
    assert (made["action"], removed["action"]) == ("limit.set", "limit.removed")
    assert made["target_id"] == removed["target_id"]
    assert made["details"] == {
        "name": "model",
        "kind": "upstream",
        "max_in_flight": 10,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "before": None,
    }
    figures = {"max_in_flight": 10, "requests_per_minute": None, "tokens_per_minute": None}
    assert removed["details"]["before"] == figures
    assert removed["details"]["max_in_flight"] is None
    assert made["actor"]["kind"] == "api_key"


async def test_what_was_limited_before_is_noted(operator: Caller) -> None:
    await put(operator, "upstream/model", max_in_flight=10)
    await put(operator, "upstream/model", requests_per_minute=60)
    [changed, _] = await operator.data("/api/v1/audit-log")
    assert changed["details"]["before"]["max_in_flight"] == 10
    assert (changed["details"]["max_in_flight"], changed["details"]["requests_per_minute"]) == (None, 60)


async def test_who_limited_what_is_read_by_operators_only_of_whatever_tenant(
    service: Service, operator: Caller
) -> None:
    """The log names other tenants, and what they may have."""
    await put(operator, "processor/noop", max_in_flight=3)
    admin = await new_key(service, operator.tenant_id, ["admin"])
    auditor = await new_key(service, operator.tenant_id, ["audit:read"])
    for one in (admin, auditor):
        answer = (await one.get("/api/v1/audit-log")).json()
        assert (answer["data"], answer["pagination"]["total_records"]) == ([], 0)
    elsewhere = await new_key(service, (await new_tenant(service)).tenant_id, ["operate", "audit:read"])
    assert [act["action"] for act in await elsewhere.data("/api/v1/audit-log")] == ["limit.set"]


async def test_a_processor_that_only_workers_have_is_limited(service: Service, operator: Caller) -> None:
    refused = await operator.send("PUT", f"{LIMITS}/processor/theirs", json={"max_in_flight": 1})
    assert code_of(refused, 404) == "not_found"
    assert "no worker" in refused.text
    await make_batch(service.database, 1, processor="theirs")
    assert (await put(operator, "processor/theirs", max_in_flight=1))["max_in_flight"] == 1
    worker = await make_worker(service.database)
    await sql(service.database, "UPDATE worker SET processors = '{others}' WHERE id = $1", worker)
    assert (await put(operator, "processor/others", max_in_flight=2))["max_in_flight"] == 2
