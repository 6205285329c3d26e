"""Chats: begun and continued by requests, read here. Seed 004, rules 7 and 23."""

from uuid import UUID, uuid4

import pytest

import factories
from gristmill.db import Database
from gristmill.domain.outcomes import Turn
from service import Caller, code_of

CHATS = "/api/v1/chats"


async def talk(caller: Caller, database: Database, turns: int, **more: str | None) -> int:
    """The history id of a new chat with so many turns."""
    worker, history_id = await factories.make_worker(database), None
    for n in range(turns):
        batch_id = await factories.make_batch(database, 1, tenant_id=caller.tenant_id)
        [lease] = await factories.claim(database, worker, 1)
        assert lease.batch_id == batch_id
        turn = Turn(f"question {n}", f"answer {n}", history_id, more.get("name"), more.get("user"))
        ended = factories.success(lease, 0, history_id=history_id, turn=turn)
        await factories.record(database, worker, factories.Flush({lease.id: 0}, [ended]), alone=True)
        async with database.connection() as connection:
            history_id = await connection.fetchval(
                "SELECT history_id FROM result WHERE batch_id = $1", batch_id
            )
    assert history_id is not None
    return history_id


async def test_a_chat_shows_its_name_and_user(caller: Caller, database: Database) -> None:
    history_id = await talk(caller, database, 1, name="Returns", user="ann")
    shown = await caller.data(f"{CHATS}/{history_id}")
    assert (shown["history_id"], shown["name"], shown["external_user_id"]) == (history_id, "Returns", "ann")


async def test_messages_come_oldest_first_in_pairs(caller: Caller, database: Database) -> None:
    history_id = await talk(caller, database, 2)
    messages = await caller.data(f"{CHATS}/{history_id}/messages")
    assert [(one["role"], one["content"]) for one in messages] == [
        ("user", "question 0"),
        ("assistant", "answer 0"),
        ("user", "question 1"),
        ("assistant", "answer 1"),
    ]
    assert messages[0]["conversation_id"] == messages[1]["conversation_id"] < messages[2]["conversation_id"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 50])
async def test_messages_are_paged_to_the_message(caller: Caller, database: Database, limit: int) -> None:
    history_id = await talk(caller, database, 3)
    whole = await caller.data(f"{CHATS}/{history_id}/messages")
    for by in ("offset", "cursor"):
        seen, query = [], f"limit={limit}"
        while query:
            answer = (await caller.get(f"{CHATS}/{history_id}/messages?{query}")).json()
            assert answer["pagination"]["total_records"] == 6
            seen += answer["data"]
            cursor, offset = answer["pagination"]["next_cursor"], len(seen)
            query = (
                (f"limit={limit}&" + (f"cursor={cursor}" if by == "cursor" else f"offset={offset}"))
                if cursor
                else ""
            )
        assert seen == whole, by


async def test_chats_are_filtered_by_user_name_and_agent(caller: Caller, database: Database) -> None:
    first = await talk(caller, database, 1, name="a", user="ann")
    second = await talk(caller, database, 1, name="b", user="ann")
    for query, wanted in {
        "": [second, first],
        "external_user_id=ann": [second, first],
        "external_user_id=bob": [],
        "name=a": [first],
        "name=b&external_user_id=ann": [second],
        f"agent_id={uuid4()}": [],
        "limit=1": [second],
    }.items():
        assert [one["history_id"] for one in await caller.data(f"{CHATS}?{query}")] == wanted, query


@pytest.mark.parametrize("history_id", ["0", "-1", "999999999", "9" * 18, "9" * 40, "x", "1.5", "%D9%A3"])
async def test_an_unknown_chat_is_404(caller: Caller, history_id: str) -> None:
    for path in ("", "/messages"):
        assert code_of(await caller.get(f"{CHATS}/{history_id}{path}"), 404) == "not_found"


async def test_a_request_may_continue_only_a_chat_of_its_own_tenant(
    caller: Caller, other: Caller, database: Database
) -> None:
    mine, foreign = await talk(caller, database, 1), await talk(other, database, 1)
    agent_id = await caller.agent()
    for history_id, status in ((mine, 202), (foreign, 400)):
        requests = [{"custom_id": "a", "message": "hello", "history_id": history_id}]
        answer = await caller.post("/api/v1/batches", {"agent_id": agent_id, "requests": requests})
        assert answer.status_code == status
    async with database.connection() as connection:
        items = await connection.fetch("SELECT history_id FROM item WHERE custom_id = 'a'")
    assert [row["history_id"] for row in items] == [mine]
    assert UUID(agent_id)
