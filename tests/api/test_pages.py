"""Seed 004, rules 10 to 13 and 22: lists, their pages, links and cursors."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

import factories
from gristmill.db import Database
from gristmill.settings import Settings
from service import Caller, code_of, problems

BATCHES = "/api/v1/batches"


async def page(caller: Caller, path: str) -> tuple[list[Any], dict[str, Any]]:
    answer = await caller.get(path)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["data", "pagination", "message", "error_code"]
    return body["data"], body["pagination"]


async def test_the_pagination_object_is_the_seeds_own(caller: Caller) -> None:
    ids = [(await caller.batch(1))["id"] for _ in range(5)]
    shown, pagination = await page(caller, f"{BATCHES}?limit=2&offset=2")
    assert [one["id"] for one in shown] == [ids[2], ids[1]]
    assert list(pagination)[:7] == [
        "limit",
        "offset",
        "total_records",
        "total_pages",
        "current_page",
        "next_page",
        "prev_page",
    ]
    assert (pagination["limit"], pagination["offset"], pagination["total_records"]) == (2, 2, 5)
    assert (pagination["total_pages"], pagination["current_page"]) == (3, 2)
    assert pagination["next_page"] == "http://127.0.0.1:8000/api/v1/batches?offset=4&limit=2"
    assert pagination["prev_page"] == "http://127.0.0.1:8000/api/v1/batches?offset=0&limit=2"


async def test_the_first_page_has_no_previous_and_the_last_no_next(caller: Caller) -> None:
    for _ in range(3):
        await caller.batch(1)
    _, first = await page(caller, f"{BATCHES}?limit=2")
    _, last = await page(caller, f"{BATCHES}?limit=2&offset=2")
    assert (first["prev_page"], last["next_page"]) == (None, None)
    assert (first["current_page"], last["current_page"]) == (1, 2)


async def test_the_limit_is_50_unless_given(caller: Caller) -> None:
    batch = await caller.batch(60)
    for path in (BATCHES, f"{BATCHES}/{batch['id']}/results"):
        _, pagination = await page(caller, path)
        assert (pagination["limit"], pagination["offset"]) == (50, 0)
    shown, _ = await page(caller, f"{BATCHES}/{batch['id']}/results")
    assert len(shown) == 50


async def test_an_empty_list_is_a_page_too(caller: Caller) -> None:
    shown, pagination = await page(caller, BATCHES)
    assert shown == []
    assert (pagination["total_records"], pagination["total_pages"], pagination["current_page"]) == (0, 0, 1)


async def test_links_keep_every_filter_and_lead_through_all_pages(caller: Caller) -> None:
    for n in range(5):
        await caller.batch(1, name="nightly & daily", metadata={"a b": "c=d", "n": str(n % 1)})
    await caller.batch(1, name="other")
    query = "status=in_progress&name=nightly%20%26%20daily&metadata.a%20b=c%3Dd&metadata.n=0&limit=2"
    seen, link = [], f"{BATCHES}?{query}"
    while link:
        shown, pagination = await page(caller, link)
        seen += [one["id"] for one in shown]
        assert pagination["total_records"] == 5
        link = pagination["next_page"]
        if link:
            wanted = dict(parse_qsl(query))
            assert wanted.items() <= dict(parse_qsl(urlsplit(link).query)).items()
            link = link.removeprefix("http://127.0.0.1:8000")
    assert len(set(seen)) == 5


async def test_links_never_come_from_the_host_header(caller: Caller) -> None:
    for _ in range(2):
        await caller.batch(1)
    answer = await caller.get(
        f"{BATCHES}?limit=1", headers={"host": "evil.test", "x-forwarded-host": "evil.test"}
    )
    assert "evil.test" not in answer.text
    assert "attacker.test" not in answer.text


class TestPublicUrl:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"public_url": "https://mill.example.com/base"})

    async def test_links_begin_with_the_public_url(self, caller: Caller) -> None:
        batch = await caller.batch(2)
        _, pagination = await page(caller, f"{BATCHES}/{batch['id']}/results?limit=1&status=pending")
        assert pagination["next_page"] == (
            f"https://mill.example.com/base/api/v1/batches/{batch['id']}/results?offset=1&limit=1&status=pending"
        )


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.5", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=", "limit"),
        ("limit=5&limit=6", "limit"),
        ("offset=-1", "offset"),
        ("offset=x", "offset"),
        ("status=running", "status"),
        ("status=", "status"),
        ("status=completed&status=failed", "status"),
        ("agent_id=7", "agent_id"),
        ("created_after=yesterday", "created_after"),
        ("created_before=2026-99-01T00:00:00Z", "created_before"),
        ("name=a%00b", "name"),
        ("name=" + "x" * 257, "name"),
        ("colour=red", "colour"),
        ("metadata.=x", "metadata."),
        ("name=%FF", ""),
        ("cursor=abc", "cursor"),
        ("cursor=%20%00", "cursor"),
        ("cursor=" + "A" * 40, "cursor"),
    ],
)
async def test_a_bad_query_is_one_clear_400(caller: Caller, query: str, name: str) -> None:
    assert list(problems(await caller.get(f"{BATCHES}?{query}"))) == [name]


async def test_all_problems_of_a_query_are_named_at_once(caller: Caller) -> None:
    answer = await caller.get(f"{BATCHES}?limit=0&offset=-1&status=x&colour=red")
    assert set(problems(answer)) == {"limit", "offset", "status", "colour"}


@pytest.mark.parametrize("offset", ["5", "3000000000", "9" * 30, "9" * 100])
async def test_an_offset_behind_the_end_is_an_empty_page(caller: Caller, offset: str) -> None:
    batch = await caller.batch(2)
    for path in (
        BATCHES,
        f"{BATCHES}/{batch['id']}/results",
        f"{BATCHES}/{batch['id']}/results?status=pending",
    ):
        separator = "&" if "?" in path else "?"
        shown, pagination = await page(caller, f"{path}{separator}offset={offset}")
        assert (shown, pagination["next_page"]) == ([], None)
        assert pagination["prev_page"] is not None


async def test_cursors_walk_a_list_that_grows_without_doubles(caller: Caller) -> None:
    ids = [(await caller.batch(1))["id"] for _ in range(5)]
    seen: list[str] = []
    path = f"{BATCHES}?limit=2"
    while path:
        shown, pagination = await page(caller, path)
        seen += [one["id"] for one in shown]
        await caller.batch(1)
        cursor = pagination["next_cursor"]
        path = f"{BATCHES}?limit=2&cursor={cursor}" if cursor else ""
    assert seen == ids[::-1]


async def test_a_page_by_cursor_links_on_by_cursor(caller: Caller) -> None:
    batch = await caller.batch(5)
    results = f"{BATCHES}/{batch['id']}/results?status=pending&limit=2"
    _, first = await page(caller, results)
    shown, second = await page(caller, f"{results}&cursor={first['next_cursor']}")
    assert [one["custom_id"] for one in shown] == ["req-2", "req-3"]
    assert (second["offset"], second["current_page"], second["prev_page"]) == (None, None, None)
    shown, third = await page(caller, second["next_page"].removeprefix("http://127.0.0.1:8000"))
    assert [one["custom_id"] for one in shown] == ["req-4"]
    assert (third["next_page"], third["next_cursor"]) == (None, None)


async def test_a_cursor_opens_only_its_own_list_for_its_own_tenant(caller: Caller, other: Caller) -> None:
    for one in (caller, other):
        for _ in range(2):
            await one.batch(2)
    shown, pagination = await page(caller, f"{BATCHES}?limit=1")
    cursor = pagination["next_cursor"]
    assert (await caller.get(f"{BATCHES}?cursor={cursor}")).status_code == 200
    results = f"{BATCHES}/{shown[0]['id']}/results"
    foreign = [(other, BATCHES), (caller, results), (caller, "/api/v1/agents"), (caller, "/api/v1/files")]
    for one, path in foreign:
        assert code_of(await one.get(f"{path}?cursor={cursor}"), 400) == "invalid_cursor"
    tampered = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    assert code_of(await caller.get(f"{BATCHES}?cursor={tampered}"), 400) == "invalid_cursor"


async def test_a_cursor_and_an_offset_exclude_each_other(caller: Caller) -> None:
    for _ in range(2):
        await caller.batch(1)
    _, pagination = await page(caller, f"{BATCHES}?limit=1")
    answer = await caller.get(f"{BATCHES}?offset=0&cursor={pagination['next_cursor']}")
    assert code_of(answer, 400) == "cursor_and_offset"


async def test_batches_are_filtered_by_each_of_their_properties(caller: Caller, database: Database) -> None:
    agent_id = await caller.agent()
    asked = {"agent_id": agent_id, "requests": [{"custom_id": "a", "message": "hello"}]}
    first = (await caller.post(BATCHES, asked)).json()["data"]
    second = await caller.batch(1, name="n", collection="c", metadata={"k": "v"}, start_paused=True)
    third = await caller.batch(1)
    worker = await factories.make_worker(database)
    await factories.drain(database, worker)
    expected = {
        f"agent_id={agent_id}": [first],
        "processor=agent_message": [first],
        "processor=noop": [third, second],
        "name=n": [second],
        "collection=c": [second],
        "metadata.k=v": [second],
        "metadata.k=w": [],
        "created_by=test": [third, second, first],
        "created_by=else": [],
        "status=paused": [second],
        "status=completed": [third],
        "status=in_progress": [first],
        f"created_after={first['created_at']}": [third, second],
        f"created_before={third['created_at']}": [second, first],
        f"created_after={first['created_at'].replace('Z', '+00:00')}&processor=noop": [third, second],
    }
    for query, wanted in expected.items():
        shown, pagination = await page(caller, f"{BATCHES}?{query}")
        assert [one["id"] for one in shown] == [one["id"] for one in wanted], query
        assert pagination["total_records"] == len(wanted)
