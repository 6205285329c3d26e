"""Who may call: three headers, one key table, scopes, revocation within five seconds."""

from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from gristmill.api import keyring
from gristmill.store import keys
from service import VAULT, Caller, Service, code_of, new_key, new_tenant

BATCHES = "/api/v1/batches"


async def send(service: Service, *headers: tuple[str, str | bytes]) -> httpx2.Response:
    return await service.client.get(
        BATCHES, headers=[(name.encode(), _bytes(value)) for name, value in headers]
    )


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x-api-key", "{}"),
        ("X-API-KEY", " {} "),
        ("Authorization", "Bearer {}"),
        ("authorization", "bearer  {}"),
        ("X-Auth-Token", "{}"),
    ],
)
async def test_a_key_is_taken_from_any_of_three_headers(
    service: Service, caller: Caller, name: str, form: str
) -> None:
    assert (await send(service, (name, form.format(caller.key)))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", "gm_wrong")],
        [("x-api-key", b"\xff\xfe")],
        [("x-api-key", "x" * 5000)],
        [("Authorization", "Basic YTpi")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("X-Auth-Token", "gm_wrong")],
    ],
)
async def test_without_a_good_key_every_route_is_401_and_says_how(
    service: Service, headers: list[tuple[str, str]]
) -> None:
    answer = await send(service, *headers)
    code_of(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_request_with_different_keys_is_refused(
    service: Service, caller: Caller, other: Caller
) -> None:
    twice = [("x-api-key", caller.key), ("X-Auth-Token", caller.key)]
    assert (await send(service, *twice)).status_code == 200
    different = [("x-api-key", caller.key), ("Authorization", f"Bearer {other.key}")]
    assert code_of(await send(service, *different), 401) == "ambiguous_credentials"


async def test_a_key_in_the_query_or_the_path_opens_nothing(service: Service, caller: Caller) -> None:
    answer = await service.client.get(f"{BATCHES}?token={caller.key}&api_key={caller.key}")
    code_of(answer, 401)
    assert caller.key not in answer.text


@pytest.mark.parametrize("scope", [scope for scope in keys.SCOPES if scope != "admin"])
async def test_a_key_may_do_what_its_scope_says_and_nothing_else(
    service: Service, caller: Caller, scope: str
) -> None:
    batch_id, agent_id = (await caller.batch(1))["id"], await caller.agent()
    limited = await new_key(service, caller.tenant_id, [scope])
    batch = f"/batches/{batch_id}"
    routes = {
        "batches:read": f"GET /batches, GET {batch}, GET {batch}/results, GET {batch}/results/a, GET {batch}/deliveries",
        "batches:write": f"POST /batches, POST {batch}/pause, POST {batch}/resume, POST {batch}/cancel, DELETE {batch},"
        f" POST /deliveries/{batch_id}/redeliver",
        "agents:read": f"GET /agents, GET /agents/{agent_id}, GET /agents/{agent_id}/versions",
        "agents:write": f"POST /agents, PATCH /agents/{agent_id}, PUT /agents/{agent_id},"
        f" POST /agents/{agent_id}/publish",
        "files:read": f"GET /files, GET /files/{batch_id}, GET /files/{batch_id}/content",
        "files:write": f"POST /files, DELETE /files/{batch_id}",
        "chats:read": "GET /chats, GET /chats/1, GET /chats/1/messages",
    }
    for needed, some in routes.items():
        for route in some.split(","):
            method, path = route.split()
            answer = await limited.send(method, f"/api/v1{path}")
            if needed == scope:
                assert answer.status_code not in (401, 403), route
            else:
                assert code_of(answer, 403) == "missing_scope", route
                assert needed in answer.json()["message"]


async def test_any_key_may_see_the_processors(service: Service, caller: Caller) -> None:
    limited = await new_key(service, caller.tenant_id, ["chats:read"])
    assert (await limited.get("/api/v1/processors")).status_code == 200


async def test_a_revoked_key_opens_nothing_once_its_short_memory_has_passed(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keyring.LIFE_SECONDS < 5
    assert (await caller.get(BATCHES)).status_code == 200
    async with service.database.engine.begin() as connection:
        [key] = await keys.list_(connection, caller.tenant_id)
        assert await keys.revoke(connection, None, key.id)
        assert not await keys.revoke(connection, None, key.id)
    later = keyring.time.monotonic() + 5
    monkeypatch.setattr(keyring.time, "monotonic", lambda: later)
    assert code_of(await caller.get(BATCHES), 401) == "invalid_key"


async def test_a_known_key_costs_no_query(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await caller.get(BATCHES)

    async def no_query(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(keys, "find", no_query)
    assert (await caller.get(BATCHES)).status_code == 200


async def test_an_expired_key_opens_nothing(service: Service, caller: Caller) -> None:
    async with service.database.engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        _, plain = await keys.create(
            connection, VAULT, caller.tenant_id, name="old", scopes=["admin"], expires_at=past
        )
    assert code_of(await send(service, ("x-api-key", plain)), 401) == "invalid_key"


async def test_no_key_is_stored_as_it_is(service: Service, caller: Caller) -> None:
    async with service.database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT k::text FROM api_key k WHERE tenant_id = $1", caller.tenant_id
        )
    assert row is not None
    assert caller.key not in row[0]
    assert caller.key.encode().hex() not in row[0]
    assert caller.key[:7] in row[0]


async def test_an_unknown_scope_is_refused(service: Service) -> None:
    with pytest.raises(ValueError, match="scopes are"):
        await new_tenant(service, ["batches:everything"])


# --- the first start ------------------------------------------------------------------------------------------


async def first_start(service: Service, configured: str | None) -> str | None:
    async with service.database.engine.begin() as connection:
        return await keys.ensure_default(connection, VAULT, configured)


async def test_the_first_start_makes_a_key_once(service: Service) -> None:
    key = await first_start(service, None)
    assert key is not None
    assert key.startswith("gm_")
    assert (await send(service, ("x-api-key", key))).status_code == 200
    assert await first_start(service, None) is None


async def test_a_configured_key_is_accepted_and_replaced_when_it_changes(service: Service) -> None:
    for _ in range(2):
        assert await first_start(service, "my-own-key") is None
    assert (await send(service, ("x-api-key", "my-own-key"))).status_code == 200
    await first_start(service, "another-key")
    service.app.state.parts.keys._seen.clear()
    assert (await send(service, ("x-api-key", "my-own-key"))).status_code == 401
    assert (await send(service, ("x-api-key", "another-key"))).status_code == 200


async def test_a_configured_key_that_was_revoked_stays_revoked(service: Service) -> None:
    await first_start(service, "my-own-key")
    async with service.database.engine.begin() as connection:
        [key] = await keys.list_(connection)
        assert (key.prefix, key.last_four, key.tenant) == ("", "", "default")
        await keys.revoke(connection, key.tenant_id, key.id)
    await first_start(service, "my-own-key")
    assert (await send(service, ("x-api-key", "my-own-key"))).status_code == 401
