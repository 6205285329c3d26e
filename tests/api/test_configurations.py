"""Configurations: checked against the processor, copied by batches, presets beside them, secrets hidden."""

from uuid import UUID, uuid4

import orjson

from gristmill.db import Database
from service import Caller, code_of, new_key, problems

CONFIGURATIONS = "/api/v1/configurations"
ITEMS = [{"custom_id": "a", "input": {}}]


async def snapshot(database: Database, batch_id: str) -> object:
    async with database.connection() as connection:
        return orjson.loads(
            await connection.fetchval("SELECT config FROM batch WHERE id = $1", UUID(batch_id))
        )


async def test_a_configuration_is_stored_shown_with_defaults_and_deleted(caller: Caller) -> None:
    given = {"name": "Always fail", "processor": "scripted", "config": {"do": "fail"}}
    made = await caller.post(CONFIGURATIONS, given)
    assert made.status_code == 201
    data = made.json()["data"]
    assert data["id"].startswith("cfg-")
    assert made.headers["location"] == f"{CONFIGURATIONS}/{data['id']}"
    assert (data["name"], data["processor"], data["preset"]) == ("Always fail", "scripted", False)
    assert data["config"] == {"do": "fail", "password": None}
    assert await caller.data(f"{CONFIGURATIONS}/{data['id']}") == data
    assert (await caller.send("DELETE", f"{CONFIGURATIONS}/{data['id']}")).status_code == 204
    assert (await caller.get(f"{CONFIGURATIONS}/{data['id']}")).status_code == 404
    assert (await caller.send("DELETE", f"{CONFIGURATIONS}/{data['id']}")).status_code == 404


async def test_what_does_not_fit_the_processor_is_refused_with_its_place(caller: Caller) -> None:
    async def refused(processor: str, config: dict[str, object]) -> dict[str, str]:
        return problems(
            await caller.post(CONFIGURATIONS, {"name": "x", "processor": processor, "config": config})
        )

    assert await refused("scripted", {"do": "dance"}) == {"/config/do": "literal_error"}
    assert await refused("scripted", {"extra": 1}) == {"/config/extra": "extra_forbidden"}
    assert await refused("nobody", {}) == {"/processor": "unknown_processor"}
    assert await refused("agent_message", {}) == {"/processor": "configured_by_agent"}
    assert (await caller.get(CONFIGURATIONS)).json()["pagination"]["total_records"] == 0


async def test_a_secret_in_a_configuration_is_stored_encrypted_and_never_shown(
    caller: Caller, database: Database
) -> None:
    configuration_id = await caller.configuration(password="open sesame")
    for path in (CONFIGURATIONS, f"{CONFIGURATIONS}/{configuration_id}"):
        text = (await caller.get(path)).text
        assert "sesame" not in text
        assert "*****" in text
    async with database.connection() as connection:
        stored = await connection.fetchval(
            "SELECT config FROM configuration WHERE id = $1", UUID(configuration_id.removeprefix("cfg-"))
        )
    assert b"sesame" not in stored


async def test_a_batch_takes_a_copy_that_later_changes_do_not_reach(
    caller: Caller, database: Database
) -> None:
    configuration_id = await caller.configuration(do="fail")
    batch = await caller.batch(ITEMS, processor="scripted", configuration_id=configuration_id)
    assert (batch["processor"], batch["configuration_id"]) == ("scripted", configuration_id)

    path = f"{CONFIGURATIONS}/{configuration_id}"
    changed = await caller.send("PATCH", path, json={"name": "Other", "config": {"do": "hang"}})
    assert changed.status_code == 200
    data = changed.json()["data"]
    assert (data["name"], data["config"]["do"]) == ("Other", "hang")
    assert data["updated_at"] > data["created_at"]
    assert problems(await caller.send("PATCH", path, json={"config": {"do": 1}})) == {
        "/config/do": "literal_error"
    }
    await caller.send("DELETE", path)

    assert await snapshot(database, batch["id"]) == {"do": "fail"}


async def test_a_change_of_the_name_keeps_the_configuration(caller: Caller) -> None:
    configuration_id = await caller.configuration(do="retry")
    changed = await caller.send("PATCH", f"{CONFIGURATIONS}/{configuration_id}", json={"name": "New"})
    assert changed.json()["data"]["config"]["do"] == "retry"
    assert await caller.data(f"{CONFIGURATIONS}?name=Test") == []
    assert len(await caller.data(f"{CONFIGURATIONS}?name=New&processor=scripted")) == 1
    assert await caller.data(f"{CONFIGURATIONS}?processor=noop") == []


async def test_a_preset_is_listed_used_and_cannot_be_changed(caller: Caller, database: Database) -> None:
    presets = {one["id"]: one for one in await caller.data(f"{CONFIGURATIONS}/presets?limit=1000")}
    preset = presets["cfg-SCRIPTED_FAIL"]
    assert (preset["processor"], preset["config"]["do"], preset["preset"]) == ("scripted", "fail", True)
    assert await caller.data(f"{CONFIGURATIONS}/cfg-SCRIPTED_FAIL") == preset

    made = await caller.post("/api/v1/batches", {"configuration_id": "cfg-SCRIPTED_FAIL", "requests": ITEMS})
    assert made.status_code == 202
    assert await snapshot(database, made.json()["data"]["id"]) == {"do": "fail"}

    path = f"{CONFIGURATIONS}/cfg-SCRIPTED_FAIL"
    assert code_of(await caller.send("PATCH", path, json={"name": "x"}), 409) == "preset"
    assert code_of(await caller.send("DELETE", path), 409) == "preset"


async def test_a_batch_with_a_configuration_that_does_not_go_with_it_is_refused_whole(
    caller: Caller, other: Caller
) -> None:
    configuration_id = await caller.configuration()
    theirs = await other.configuration()
    agent_id = await caller.agent()

    async def refused(**fields: object) -> dict[str, str]:
        return problems(await caller.post("/api/v1/batches", {"requests": ITEMS, **fields}))

    for unknown in (theirs, f"cfg-{uuid4()}", str(uuid4()), "cfg-NOTHING", configuration_id[4:]):
        assert await refused(configuration_id=unknown) == {"/configuration_id": "unknown_configuration"}
    assert await refused(configuration_id=configuration_id, config={}) == {"/config": "with_configuration"}
    assert await refused(configuration_id=configuration_id, agent_id=agent_id) == {
        "/agent_id": "with_configuration"
    }
    assert await refused(configuration_id=configuration_id, processor="noop") == {
        "/processor": "other_processor"
    }
    assert (await caller.get("/api/v1/batches")).json()["pagination"]["total_records"] == 0


async def test_reading_and_writing_need_their_scopes(caller: Caller) -> None:
    configuration_id = await caller.configuration()
    reader = await new_key(caller.service, caller.tenant_id, ["configurations:read"])
    assert (await reader.get(f"{CONFIGURATIONS}/{configuration_id}")).status_code == 200
    for method in ("PATCH", "DELETE"):
        answer = await reader.send(method, f"{CONFIGURATIONS}/{configuration_id}", json={"name": "x"})
        assert answer.status_code == 403
    writer = await new_key(caller.service, caller.tenant_id, ["configurations:write"])
    assert (await writer.get(CONFIGURATIONS)).status_code == 403
    assert (await writer.get(f"{CONFIGURATIONS}/presets")).status_code == 200
