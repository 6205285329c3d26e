"""Agents: a change makes a version, only a published one runs, credentials of tools stay hidden."""

from typing import Any

import pytest

from gristmill.api import agents as routes
from gristmill.db import Database
from service import Caller, code_of, problems

AGENTS = "/api/v1/agents"
SECRET = "Bearer sk-do-not-show"
SERVER = {"name": "orders", "url": "https://tools.example.com/mcp", "headers": {"Authorization": SECRET}}


async def test_a_number_beyond_integers_comes_back_as_it_was(caller: Caller) -> None:
    made = await caller.post("/api/v1/agents", {"name": "a", "parameters": {"seed": 1e308}})
    assert made.status_code == 201, made.text
    assert made.json()["data"]["parameters"] == {"seed": 1e308}


async def test_a_new_agent_is_a_draft_with_an_id(caller: Caller) -> None:
    given = {
        "name": "Support",
        "model": "gpt-5-mini",
        "instructions": "Be brief.",
        "parameters": {"temperature": 0.2},
        "mcp_servers": [],
    }
    made = await caller.post(AGENTS, given)
    assert made.status_code == 201
    data = made.json()["data"]
    assert made.headers["location"] == f"{AGENTS}/{data['id']}"
    assert given.items() <= data.items()
    assert (data["version"], data["published_version"]) == (1, None)
    assert await caller.data(f"{AGENTS}/{data['id']}") == data


async def test_only_the_name_is_required(caller: Caller) -> None:
    data = (await caller.post(AGENTS, {"name": "A"})).json()["data"]
    assert (data["model"], data["instructions"], data["parameters"], data["mcp_servers"]) == (
        None,
        "",
        {},
        [],
    )


async def test_a_change_makes_a_new_version_that_is_not_published(caller: Caller) -> None:
    agent_id = await caller.agent(name="One", model="m", instructions="Be brief.")
    changed = await caller.send("PATCH", f"{AGENTS}/{agent_id}", json={"name": "Two", "model": None})
    data = changed.json()["data"]
    assert (data["name"], data["model"], data["instructions"]) == ("Two", None, "Be brief.")
    assert (data["version"], data["published_version"]) == (2, 1)
    published = (await caller.post(f"{AGENTS}/{agent_id}/publish")).json()["data"]
    assert published["published_version"] == 2


async def test_put_replaces_everything(caller: Caller) -> None:
    agent_id = await caller.agent(model="m", instructions="Be brief.", mcp_servers=[SERVER])
    replaced = await caller.send("PUT", f"{AGENTS}/{agent_id}", json={"name": "New"})
    data = replaced.json()["data"]
    assert (data["name"], data["model"], data["instructions"], data["mcp_servers"]) == ("New", None, "", [])
    assert problems(await caller.send("PUT", f"{AGENTS}/{agent_id}", json={})) == {"/name": "missing"}


async def test_an_earlier_version_can_be_published_again(caller: Caller) -> None:
    agent_id = await caller.agent()
    await caller.send("PATCH", f"{AGENTS}/{agent_id}", json={"instructions": "worse"})
    await caller.post(f"{AGENTS}/{agent_id}/publish")
    back = await caller.post(f"{AGENTS}/{agent_id}/publish", {"version": 1})
    assert (back.json()["data"]["published_version"], back.json()["data"]["version"]) == (1, 2)
    assert (await caller.post(f"{AGENTS}/{agent_id}/publish", {"version": 3})).status_code == 404


async def test_versions_are_listed_newest_first(caller: Caller) -> None:
    agent_id = await caller.agent(name="One")
    await caller.send("PATCH", f"{AGENTS}/{agent_id}", json={"name": "Two"})
    versions = await caller.data(f"{AGENTS}/{agent_id}/versions")
    assert [(one["version"], one["name"]) for one in versions] == [(2, "Two"), (1, "One")]
    assert [one["published_at"] is not None for one in versions] == [False, True]


async def test_agents_are_listed_newest_first(caller: Caller) -> None:
    ids = [await caller.agent(publish=False) for _ in range(3)]
    assert [one["id"] for one in await caller.data(AGENTS)] == ids[::-1]


async def test_header_values_of_tools_are_stored_encrypted_and_never_shown(
    caller: Caller, database: Database
) -> None:
    agent_id = await caller.agent(mcp_servers=[SERVER])
    changed = await caller.send("PATCH", f"{AGENTS}/{agent_id}", json={"name": "Two"})
    for answer in (
        changed,
        await caller.get(f"{AGENTS}/{agent_id}"),
        await caller.get(f"{AGENTS}/{agent_id}/versions"),
    ):
        assert SECRET not in answer.text
    assert changed.json()["data"]["mcp_servers"] == [
        {"name": "orders", "url": SERVER["url"], "header_names": ["Authorization"]}
    ]
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT mcp_servers FROM agent_version")
    assert len({bytes(row[0]) for row in rows}) == 2
    assert all(SECRET.encode() not in row[0] for row in rows)


async def test_publishing_tools_without_the_extra_is_a_400_that_names_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "mcp_available", lambda: False)
    agent_id = await caller.agent(publish=False, mcp_servers=[SERVER])
    answer = await caller.post(f"{AGENTS}/{agent_id}/publish")
    assert code_of(answer, 400) == "extra_missing"
    assert "gristmill[mcp]" in answer.json()["message"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 257}, "/name"),
        ({"name": 5}, "/name"),
        ({"name": None}, "/name"),
        ({"model": ""}, "/model"),
        ({"instructions": "x" * 200_001}, "/instructions"),
        ({"instructions": None}, "/instructions"),
        ({"parameters": []}, "/parameters"),
        *[
            ({"parameters": {name: 1}}, "/parameters")
            for name in ("stream", "messages", "model", "tools", "n")
        ],
        ({"parameters": {"stop": "x" * 70_000}}, "/parameters"),
        ({"mcp_servers": {}}, "/mcp_servers"),
        ({"mcp_servers": [SERVER, SERVER]}, "/mcp_servers"),
        ({"mcp_servers": [SERVER | {"name": "a b"}]}, "/mcp_servers/0/name"),
        ({"mcp_servers": [SERVER | {"name": "a\n"}]}, "/mcp_servers/0/name"),
        ({"mcp_servers": [SERVER | {"url": "http://tools.example.com/"}]}, "/mcp_servers/0/url"),
        ({"mcp_servers": [SERVER | {"url": "https://10.0.0.1/"}]}, "/mcp_servers/0/url"),
        ({"mcp_servers": [SERVER | {"command": "rm"}]}, "/mcp_servers/0/command"),
        ({"mcp_servers": [SERVER | {"headers": {"A": "b\r\nC: d"}}]}, "/mcp_servers/0/headers"),
        ({"mcp_servers": [SERVER | {"headers": {"A B": "c"}}]}, "/mcp_servers/0/headers"),
        ({"mcp_servers": [SERVER | {"headers": {"Host": "c"}}]}, "/mcp_servers/0/headers"),
        ({"mcp_servers": [SERVER | {"headers": {"A": 5}}]}, "/mcp_servers/0/headers/A"),
        ({"mcp_servers": [{**SERVER, "name": f"n{n}"} for n in range(17)]}, "/mcp_servers"),
        ({"published": True}, "/published"),
    ],
)
async def test_a_bad_field_is_refused_in_create_and_change(
    caller: Caller, fields: dict[str, Any], pointer: str
) -> None:
    agent_id = await caller.agent()
    assert list(problems(await caller.post(AGENTS, {"name": "A"} | fields))) == [pointer]
    assert list(problems(await caller.send("PATCH", f"{AGENTS}/{agent_id}", json=fields))) == [pointer]
    assert (await caller.data(f"{AGENTS}/{agent_id}"))["version"] == 1


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, 2**31])
async def test_a_version_is_a_positive_integer(caller: Caller, version: Any) -> None:
    agent_id = await caller.agent()
    assert list(problems(await caller.post(f"{AGENTS}/{agent_id}/publish", {"version": version}))) == [
        "/version"
    ]


@pytest.mark.parametrize("agent_id", ["01a20313-7126-7000-b171-15a57bafe5cf", "7", "%00"])
async def test_an_unknown_agent_is_404_on_every_route(caller: Caller, agent_id: str) -> None:
    for method, path, body in [
        ("GET", "", None),
        ("GET", "/versions", None),
        ("PATCH", "", {"name": "x"}),
        ("PUT", "", {"name": "x"}),
        ("POST", "/publish", None),
    ]:
        more = {} if body is None else {"json": body}
        assert code_of(await caller.send(method, f"{AGENTS}/{agent_id}{path}", **more), 404) == "not_found"
