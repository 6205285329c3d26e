"""API keys over the API: made, shown once, rotated, revoked; nobody gives more than he has; every act is logged."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest

import factories
from gristmill.api import keyring
from gristmill.api.app import create_app
from gristmill.db import Database
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.opening import open_storage
from gristmill.store import keys
from service import VAULT, Caller, Service, code_of, new_key, problems

KEYS = "/api/v1/api-keys"
AGENTS = "/api/v1/agents"


async def make(caller: Caller, *scopes: str, **more: Any) -> tuple[str, Caller]:
    """Its id, and somebody who has it."""
    made = await caller.post(KEYS, {"name": "mine", "scopes": list(scopes), **more})
    assert made.status_code == 201, made.text
    data = made.json()["data"]
    assert made.headers["location"] == f"{KEYS}/{data['id']}"
    return data["id"], Caller(caller.service, caller.tenant_id, data["key"])


async def test_a_key_is_made_shown_once_and_opens_what_its_scopes_say(caller: Caller) -> None:
    key_id, holder = await make(caller, "agents:read", "files:read", "agents:read")
    assert (await holder.get(AGENTS)).status_code == 200
    assert code_of(await holder.get(KEYS), 403) == "missing_scope"
    shown = await caller.data(f"{KEYS}/{key_id}")
    assert shown["scopes"] == ["agents:read", "files:read"]
    assert (shown["name"], shown["expires_at"], shown["revoked_at"]) == ("mine", None, None)
    for path in (KEYS, f"{KEYS}/{key_id}", "/api/v1/audit-log"):
        assert holder.key not in (await caller.get(path)).text
    assert (await caller.data(KEYS))[0]["id"] == key_id


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, {"/name": "missing", "/scopes": "missing"}),
        ({"name": "x", "scopes": []}, {"/scopes": "too_short"}),
        ({"name": "x", "scopes": ["batches:everything"]}, {"/scopes/0": "literal_error"}),
        ({"name": "", "scopes": ["admin"]}, {"/name": "string_too_short"}),
        ({"name": keys.CONFIGURED, "scopes": ["admin"]}, {"/name": "reserved_name"}),
        (
            {"name": "x", "scopes": ["admin"], "expires_in_seconds": 0},
            {"/expires_in_seconds": "greater_than_equal"},
        ),
        ({"name": "x", "scopes": ["admin"], "key": "gm_mine"}, {"/key": "extra_forbidden"}),
    ],
)
async def test_what_is_no_key_is_refused(caller: Caller, body: Any, found: dict[str, str]) -> None:
    assert problems(await caller.post(KEYS, body)) == found
    assert len(await caller.data(KEYS)) == 1


async def test_a_key_can_give_only_what_it_has(service: Service, caller: Caller) -> None:
    clerk = await new_key(service, caller.tenant_id, ["keys:write", "keys:read", "batches:read"])
    await make(clerk, "batches:read", "keys:write")
    for scopes in (["admin"], ["batches:read", "files:read"]):
        refused = await clerk.post(KEYS, {"name": "more", "scopes": scopes})
        assert code_of(refused, 403) == "exceeds_scopes"


@pytest.mark.parametrize("act", ["rotate", "revoke"])
async def test_a_key_that_may_do_more_cannot_be_taken_over_or_taken_away(
    service: Service, caller: Caller, act: str
) -> None:
    clerk = await new_key(service, caller.tenant_id, ["keys:write", "batches:read"])
    more, _ = await make(caller, "batches:read", "files:read")
    assert code_of(await clerk.post(f"{KEYS}/{more}/{act}"), 403) == "exceeds_scopes"
    less, _ = await make(caller, "batches:read")
    assert (await clerk.post(f"{KEYS}/{less}/{act}")).is_success


async def test_a_key_expires(caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id, holder = await make(caller, "agents:read", expires_in_seconds=3600)
    assert (await holder.get(AGENTS)).status_code == 200
    [seconds] = await factories.sql(
        database, "SELECT extract(epoch FROM expires_at - created_at) FROM api_key WHERE id = $1", key_id
    )
    assert seconds == 3600
    await factories.sql(database, "UPDATE api_key SET expires_at = now() WHERE id = $1", key_id)
    _later(monkeypatch)
    assert code_of(await holder.get(AGENTS), 401) == "invalid_key"
    assert code_of(await caller.post(f"{KEYS}/{key_id}/rotate"), 409) == "key_expired"
    assert (await caller.post(f"{KEYS}/{key_id}/revoke")).status_code == 200


def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds, for what processes remember."""
    later = keyring.time.monotonic() + 5
    monkeypatch.setattr(keyring.time, "monotonic", lambda: later)


async def test_a_rotated_key_opens_until_the_overlap_ends_and_the_new_one_from_now_on(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_id, old = await make(caller, "agents:read", expires_in_seconds=7200)
    rotated = await caller.post(f"{KEYS}/{old_id}/rotate", {"overlap_seconds": 600})
    assert rotated.status_code == 201
    data = rotated.json()["data"]
    new = Caller(caller.service, caller.tenant_id, data["key"])
    assert (data["name"], data["scopes"]) == ("mine", ["agents:read"])
    assert data["id"] != old_id
    for holder in (old, new):
        assert (await holder.get(AGENTS)).status_code == 200
    assert (await caller.data(f"{KEYS}/{old_id}"))["replaced_by"] == data["id"]
    lives = "SELECT extract(epoch FROM expires_at - created_at) FROM api_key WHERE id = $1"
    assert await factories.sql(database, lives, data["id"]) == [7200]
    assert 600 <= (await factories.sql(database, lives, old_id))[0] < 700
    assert code_of(await caller.post(f"{KEYS}/{old_id}/rotate"), 409) == "key_rotated"
    await factories.sql(database, "UPDATE api_key SET expires_at = now() WHERE id = $1", old_id)
    _later(monkeypatch)
    assert code_of(await old.get(AGENTS), 401) == "invalid_key"
    assert (await new.get(AGENTS)).status_code == 200


async def test_a_rotation_lengthens_no_life(caller: Caller, database: Database) -> None:
    old_id, _ = await make(caller, "agents:read", expires_in_seconds=100)
    await caller.post(f"{KEYS}/{old_id}/rotate", {"overlap_seconds": 600, "expires_in_seconds": 60})
    lives = "SELECT extract(epoch FROM expires_at - created_at) FROM api_key WHERE name = 'mine' ORDER BY id"
    assert await factories.sql(database, lives) == [100, 60]
    another, holder = await make(caller, "agents:read")
    await holder.get(AGENTS)
    await caller.post(f"{KEYS}/{another}/rotate", {"overlap_seconds": 0})
    assert code_of(await holder.get(AGENTS), 401) == "invalid_key"


async def test_a_revoked_key_opens_nothing_here_at_once_and_elsewhere_within_five_seconds(
    caller: Caller, database: Database, settings: Settings, http: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, holder = await make(caller, "agents:read")
    app = create_app(
        database, VAULT, settings, wake=lambda *_: None, http=http, storage=open_storage(settings)
    )
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://second.test") as client:
        elsewhere = Caller(Service(app, database, client, asyncio.Event()), caller.tenant_id, holder.key)
        assert [(await one.get(AGENTS)).status_code for one in (holder, elsewhere)] == [200, 200]
        revoked = await caller.post(f"{KEYS}/{key_id}/revoke")
        assert revoked.status_code == 200
        assert revoked.json()["data"]["revoked_at"]
        assert code_of(await holder.get(AGENTS), 401) == "invalid_key"
        _later(monkeypatch)
        assert code_of(await elsewhere.get(AGENTS), 401) == "invalid_key"
    for act in ("revoke", "rotate"):
        assert code_of(await caller.post(f"{KEYS}/{key_id}/{act}"), 409) == "key_revoked"


async def test_the_last_admin_key_cannot_be_revoked(caller: Caller, other: Caller) -> None:
    [mine] = await caller.data(KEYS)
    await make(caller, "keys:write", "batches:write")  # no admin
    assert code_of(await caller.post(f"{KEYS}/{mine['id']}/revoke"), 409) == "last_admin_key"
    second_id, second = await make(caller, "admin")
    assert (await second.post(f"{KEYS}/{mine['id']}/revoke")).status_code == 200
    assert code_of(await second.post(f"{KEYS}/{second_id}/revoke"), 409) == "last_admin_key"


async def test_an_admin_key_in_its_overlap_is_no_other_admin_key(caller: Caller) -> None:
    [mine] = await caller.data(KEYS)
    new = (await caller.post(f"{KEYS}/{mine['id']}/rotate")).json()["data"]
    assert code_of(await caller.post(f"{KEYS}/{new['id']}/revoke"), 409) == "last_admin_key"
    assert (await caller.post(f"{KEYS}/{mine['id']}/revoke")).status_code == 200


async def test_two_admins_who_revoke_each_other_leave_one(service: Service, caller: Caller) -> None:
    for _ in range(5):
        [first] = [one for one in await caller.data(KEYS) if not one["revoked_at"]]
        second_id, second = await make(caller, "admin")
        answers = await asyncio.gather(
            caller.post(f"{KEYS}/{second_id}/revoke"), second.post(f"{KEYS}/{first['id']}/revoke")
        )
        assert sorted(one.status_code for one in answers) in ([200, 401], [200, 409])
        caller = caller if answers[0].status_code == 200 else second


async def test_the_key_of_the_setting_is_not_rotated(service: Service) -> None:
    async with service.database.engine.begin() as connection:
        await keys.ensure_default(connection, VAULT, "the-configured-key")
        [key] = await keys.list_(connection)
    holder = Caller(service, key.tenant_id, "the-configured-key")
    assert code_of(await holder.post(f"{KEYS}/{key.id}/rotate"), 409) == "key_configured"


# --- the log ----------------------------------------------------------------------------------------------------------


async def test_every_act_is_logged_with_who_what_and_from_where(caller: Caller, other: Caller) -> None:
    [mine] = await caller.data(KEYS)
    made = await caller.post(KEYS, {"name": "n\u00e4me", "scopes": ["agents:read"]})
    key = made.json()["data"]
    rotated = await caller.post(f"{KEYS}/{key['id']}/rotate")
    await caller.post(f"{KEYS}/{key['id']}/revoke")
    await caller.post(f"{KEYS}/{uuid4()}/revoke")  # nothing happened
    await caller.post(f"{KEYS}/{mine['id']}/revoke")  # likewise
    log = await caller.data("/api/v1/audit-log")
    assert [(one["action"], one["target_id"]) for one in log] == [
        ("api_key.revoked", key["id"]),
        ("api_key.rotated", key["id"]),
        ("api_key.created", key["id"]),
    ]
    for act in log:
        assert act["actor"] == {"kind": "api_key", "id": mine["id"], "name": "test"}
        assert act["address"] == "127.0.0.1"
        assert (act["details"]["name"], act["details"]["scopes"]) == ("näme", ["agents:read"])
    assert log[2]["request_id"] == made.headers["x-request-id"]
    assert log[1]["details"]["replaced_by"] == rotated.json()["data"]["id"]
    assert await other.data("/api/v1/audit-log") == []
    page = (await caller.get("/api/v1/audit-log?limit=1")).json()
    assert page["pagination"]["total_records"] == 3
    following = await caller.data(f"/api/v1/audit-log?limit=5&cursor={page['pagination']['next_cursor']}")
    assert following == log[1:]


async def test_neither_log_nor_table_holds_a_key(
    caller: Caller, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key_id, holder = await make(caller, "agents:read")
    new = (await caller.post(f"{KEYS}/{key_id}/rotate")).json()["data"]["key"]
    rows = await factories.sql(database, "SELECT a::text FROM audit_entry a")
    rows += await factories.sql(database, "SELECT k::text FROM api_key k")
    rows.append(caplog.text)
    for plain in (holder.key, new):
        assert not [row for row in rows if plain in row]
