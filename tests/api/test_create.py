"""Seed 004, rules 1 to 9: creating a batch."""

import asyncio
import threading
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import pytest
from starlette.requests import Request

from gristmill.api import body
from gristmill.db import Database
from gristmill.domain import marks
from gristmill.intake import json
from service import VAULT, Caller, Service, problems

BATCHES = "/api/v1/batches"
SEED_KEYS = [
    "id",
    "status",
    "agent_id",
    "total_requests",
    "completed_requests",
    "failed_requests",
    "created_at",
    "completed_at",
    "cancelled_at",
]


def ask(n: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"req-{i}", "message": f"Question {i}"} for i in range(n)]


def given(n: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"req-{i}", "input": {"text": str(i)}} for i in range(n)]


async def stored(database: Database) -> int:
    async with database.connection() as connection:
        return int(
            await connection.fetchval("SELECT (SELECT count(*) FROM batch) + (SELECT count(*) FROM item)")
        )


async def test_create_answers_202_with_the_nine_keys_of_the_seed_first(caller: Caller) -> None:
    agent_id = await caller.agent()
    made = await caller.post(BATCHES, {"agent_id": agent_id, "requests": ask(2)})
    assert made.status_code == 202
    body = made.json()
    assert list(body) == ["data", "message", "error_code"]
    assert (body["message"], body["error_code"]) == (None, 0)
    assert list(body["data"])[:9] == SEED_KEYS
    UUID(body["data"]["id"])
    assert body["data"]["agent_id"] == agent_id


async def test_a_new_batch_is_in_progress_with_all_requests_and_no_counts(caller: Caller) -> None:
    batch = await caller.batch(7)
    shown = {name: batch[name] for name in SEED_KEYS if name not in ("id", "created_at")}
    assert shown == {
        "status": "in_progress",
        "agent_id": None,
        "total_requests": 7,
        "completed_requests": 0,
        "failed_requests": 0,
        "completed_at": None,
        "cancelled_at": None,
    }
    assert batch["created_at"].endswith("Z")


async def test_a_batch_that_starts_paused_says_so(caller: Caller) -> None:
    assert (await caller.batch(1, start_paused=True))["status"] == "paused"


async def test_the_worker_is_woken_after_the_commit(caller: Caller) -> None:
    caller.service.woken.clear()
    await caller.batch(1)
    assert caller.service.woken.is_set()


async def test_unpublished_and_unknown_agents_are_all_listed_and_nothing_is_stored(
    caller: Caller, other: Caller, database: Database
) -> None:
    good, draft, foreign = await caller.agent(), await caller.agent(publish=False), await other.agent()
    requests = ask(4)
    requests[1]["agent_id"], requests[2]["agent_id"], requests[3]["agent_id"] = draft, str(uuid4()), foreign
    answer = await caller.post(BATCHES, {"agent_id": good, "requests": requests})
    assert problems(answer) == {
        "/requests/1/agent_id": "agent_not_published",
        "/requests/2/agent_id": "unknown_agent",
        "/requests/3/agent_id": "unknown_agent",
    }
    answer = await caller.post(BATCHES, {"agent_id": draft, "requests": ask(1)})
    assert problems(answer) == {"/agent_id": "agent_not_published"}
    assert await stored(database) == 0


async def test_a_request_may_name_another_published_agent(caller: Caller, database: Database) -> None:
    default, special = await caller.agent(name="Default"), await caller.agent(name="Special")
    requests = ask(2)
    requests[1]["agent_id"] = special
    made = await caller.post(BATCHES, {"agent_id": default, "requests": requests})
    assert made.status_code == 202
    async with database.connection() as connection:
        config = orjson.loads(await connection.fetchval("SELECT config FROM batch"))
    assert {config["agents"][one]["name"] for one in (default, special)} == {"Default", "Special"}


@pytest.mark.parametrize(("count", "code"), [(0, "too_short"), (1, None), (1000, None), (1001, "too_long")])
async def test_a_batch_has_1_to_1000_requests(caller: Caller, count: int, code: str | None) -> None:
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": given(count)})
    if code is None:
        assert answer.json()["data"]["total_requests"] == count
    else:
        assert problems(answer) == {"/requests": code}


@pytest.mark.parametrize("requests", [None, {}, "all", 3, {"custom_id": "a"}])
async def test_requests_is_an_array(caller: Caller, requests: Any) -> None:
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": requests})
    assert problems(answer) == {"/requests": "list_type"}


async def test_requests_is_required(caller: Caller) -> None:
    assert problems(await caller.post(BATCHES, {"processor": "noop"})) == {"/requests": "missing"}


@pytest.mark.parametrize(
    ("custom_id", "code"),
    [
        ("", "string_too_short"),
        ("x" * 257, "string_too_long"),
        (7, "string_type"),
        (None, "string_type"),
        (True, "string_type"),
    ],
)
async def test_a_custom_id_is_a_string_of_1_to_256_characters(
    caller: Caller, custom_id: Any, code: str
) -> None:
    requests = [{"custom_id": custom_id, "input": {"text": ""}}]
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": requests})
    assert problems(answer) == {"/requests/0/custom_id": code}


async def test_a_custom_id_comes_back_byte_for_byte(caller: Caller) -> None:
    odd = [
        "x" * 256,
        "Ünïcödé 🔑",
        "a\nb\tc\x1b[31m",
        "A",
        "a",
        " a",
        "é",
        "e\u0301",
        "../../etc",
        "=1+1",
        "a/b?c#d%2F",
    ]
    batch = await caller.batch([{"custom_id": one, "input": {"text": ""}} for one in odd])
    results = await caller.data(f"{BATCHES}/{batch['id']}/results")
    assert [one["custom_id"] for one in results] == odd


async def test_a_custom_id_is_unique_in_its_batch_and_only_there(caller: Caller) -> None:
    requests = given(3)
    requests[2]["custom_id"] = requests[0]["custom_id"]
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": requests})
    assert problems(answer) == {"/requests/2/custom_id": "duplicate_custom_id"}
    await caller.batch(given(2))
    await caller.batch(given(2))


@pytest.mark.parametrize("message", [None, 5, "", "   \n", ["hello"]])
async def test_a_message_is_text_that_says_something(caller: Caller, message: Any) -> None:
    agent_id = await caller.agent()
    requests = [{"custom_id": "a", "message": message}]
    answer = await caller.post(BATCHES, {"agent_id": agent_id, "requests": requests})
    assert list(problems(answer)) == ["/requests/0/message"]


async def test_the_optional_fields_of_a_request_are_checked_one_by_one(caller: Caller) -> None:
    agent_id = await caller.agent()
    wrong: dict[str, Any] = {
        "name": "x" * 257,
        "external_user_id": 5,
        "attached_file_uuids": ["550e8400e29b41d4a716446655440000"],
        "history_id": "12",
        "agent_id": "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
        "color": "red",
    }
    requests = [{"custom_id": name, "message": "hello", name: value} for name, value in wrong.items()]
    found = problems(await caller.post(BATCHES, {"agent_id": agent_id, "requests": requests}))
    assert {pointer.split("/")[3] for pointer in found} == set(wrong)
    assert found["/requests/0/name"] == "string_too_long"
    assert found["/requests/5/color"] == "extra_forbidden"


async def test_a_request_may_have_a_name_of_256_characters_and_no_files(caller: Caller) -> None:
    request = {"custom_id": "a", "message": "hello", "name": "x" * 256, "external_user_id": "user_123"}
    body = {"agent_id": await caller.agent(), "requests": [request | {"attached_file_uuids": []}]}
    assert (await caller.post(BATCHES, body)).status_code == 202


async def test_a_message_is_required(caller: Caller) -> None:
    body = {"agent_id": await caller.agent(), "requests": [{"custom_id": "a"}]}
    assert problems(await caller.post(BATCHES, body)) == {"/requests/0/message": "missing"}


async def test_null_stands_for_an_absent_option(caller: Caller) -> None:
    agent_id = await caller.agent()
    request = {"custom_id": "a", "message": "hello", "agent_id": None, "name": None, "history_id": None}
    request["external_user_id"] = None
    answer = await caller.post(
        BATCHES, {"agent_id": agent_id, "requests": [request], "webhook": None, "name": None}
    )
    assert answer.status_code == 202


async def test_chats_and_files_of_requests_have_to_exist_for_the_caller(
    caller: Caller, other: Caller
) -> None:
    agent_id, foreign = await caller.agent(), await other.upload(b"secret")
    mine, pdf = await caller.upload(b"hello"), await caller.upload(b"%PDF-1.7 hello", "a.pdf")
    requests = ask(3)
    requests[0]["attached_file_uuids"] = [mine, foreign]
    requests[1]["attached_file_uuids"] = [pdf]
    requests[2]["history_id"] = 4711
    answer = await caller.post(BATCHES, {"agent_id": agent_id, "requests": requests})
    assert problems(answer) == {
        "/requests/0/attached_file_uuids/1": "unknown_file",
        "/requests/1/attached_file_uuids/0": "unsupported_file",
        "/requests/2/history_id": "unknown_chat",
    }


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"From: a\nTo: b\n\nhello",
        b"\x89PNG\r\n\x1a\n rest",
        b"\xff\xd8\xff rest",
        b"GIF89a rest",
    ],
)
async def test_text_and_images_can_be_attached(caller: Caller, content: bytes) -> None:
    agent_id, file_id = await caller.agent(), await caller.upload(content)
    requests = [{"custom_id": "a", "message": "What is this?", "attached_file_uuids": [file_id]}]
    answer = await caller.post(BATCHES, {"agent_id": agent_id, "requests": requests})
    assert answer.status_code == 202


async def test_an_agents_request_may_hold_its_fields_under_input_too(caller: Caller) -> None:
    agent_id = await caller.agent()
    requests = [
        {"custom_id": "a", "input": {"message": "hello"}},
        {"custom_id": "b", "input": {"message": 5}},
    ]
    answer = await caller.post(BATCHES, {"agent_id": agent_id, "requests": requests})
    assert problems(answer) == {"/requests/1/input/message": "string_type"}
    requests.pop()
    assert (await caller.post(BATCHES, {"agent_id": agent_id, "requests": requests})).status_code == 202


async def test_every_problem_is_named_at_once_with_its_place(caller: Caller) -> None:
    requests: list[Any] = given(4)
    requests[0] = {"custom_id": "req-1", "input": {"text": 5}}
    requests[2] = "no object"
    requests[3] = {"custom_id": "x", "input": {"text": "", "color": "red"}, "message": "hi"}
    body = {"processor": "noop", "requests": requests, "priority": 101, "colour": "red", "metadata": {"a": 1}}
    assert problems(await caller.post(BATCHES, body)) == {
        "/priority": "less_than_equal",
        "/colour": "extra_forbidden",
        "/metadata/a": "string_type",
        "/requests/0/input/text": "string_type",
        "/requests/1/custom_id": "duplicate_custom_id",
        "/requests/2": "object_type",
        "/requests/3/input/color": "extra_forbidden",
        "/requests/3/message": "extra_forbidden",
    }


async def test_without_an_agent_or_a_processor_only_that_is_a_problem(caller: Caller) -> None:
    for requests in (ask(2), given(2)):
        assert problems(await caller.post(BATCHES, {"requests": requests})) == {"": "agent_or_processor"}


async def test_at_most_100_problems_are_listed(caller: Caller) -> None:
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": [{"input": 5}] * 500})
    problems(answer)
    assert len(answer.json()["error"]["errors"]) == 100


async def test_a_refusal_never_repeats_what_was_sent(caller: Caller) -> None:
    secret = "hunter2-hunter2"
    body = {
        "processor": secret,
        "requests": [{"custom_id": 5, "input": {"text": secret}}],
        "webhook": {"url": f"https://{secret}.example.com/", "secret": secret * 30, "events": [secret]},
        "metadata": {"a": [secret]},
    }
    answer = await caller.post(BATCHES, body)
    assert answer.status_code == 400
    assert secret not in answer.text


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"agent_id": "your-agent-id"}, "/agent_id"),
        ({"agent_id": None}, ""),
        ({"processor": "nothing"}, "/processor"),
        ({"processor": "agent_message"}, "/agent_id"),
        ({"processor": "noop", "agent_id": str(uuid4())}, "/agent_id"),
        ({"agent_id": str(uuid4()), "config": {}}, "/config"),
        ({"processor": "scripted", "config": {"do": "dance"}}, "/config/do"),
        ({"processor": "scripted", "config": {"more": 1}}, "/config/more"),
        ({"processor": "scripted", "config": []}, "/config"),
    ],
)
async def test_a_batch_names_an_agent_or_a_processor_with_its_configuration(
    caller: Caller, body: dict[str, Any], pointer: str
) -> None:
    answer = await caller.post(BATCHES, body | {"requests": [{"custom_id": "a", "input": {}}]})
    assert pointer in problems(answer)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("priority", [-100, 100], [-101, 101, "1", 1.5, True]),
        ("deadline_seconds", [10, 2_592_000], [9, 2_592_001, 1.5]),
        ("max_attempts", [1, 20], [0, 21]),
        ("item_timeout_seconds", [1, 3600, 2.5], [0.5, 3601, "9"]),
        ("max_concurrency", [1, 10_000, None], [0, 10_001]),
        ("start_paused", [True, False], ["true", 1]),
        ("name", ["x" * 256], ["", "x" * 257, 5]),
        ("collection", ["x" * 256], ["", "x" * 257]),
        (
            "metadata",
            [{}, {str(n): "x" * 512 for n in range(16)}],
            [{str(n): "" for n in range(17)}, {"": "a"}],
        ),
        (
            "failure_threshold",
            [
                None,
                {"ratio": 0.29, "minimum": 1, "action": "pause"},
                {"ratio": 1, "minimum": 1_000_000, "action": "fail"},
            ],
            [
                {},
                {"ratio": 0.5},
                {"ratio": 1.1, "action": "fail"},
                {"ratio": -0.1, "action": "fail"},
                {"ratio": "0.5", "action": "fail"},
                {"ratio": 0.5, "minimum": 0, "action": "fail"},
                {"ratio": 0.5, "minimum": 1_000_001, "action": "fail"},
                {"ratio": 0.5, "action": "stop"},
                {"ratio": 0.5, "action": "fail", "more": 1},
            ],
        ),
        (
            "budget",
            [None, {"max_tokens": 1, "action": "pause"}, {"max_tokens": 10**15, "action": "fail"}],
            [
                {"max_tokens": 1},
                {"action": "fail"},
                {"max_tokens": 0, "action": "fail"},
                {"max_tokens": 10**15 + 1, "action": "fail"},
                {"max_tokens": 1.5, "action": "fail"},
                {"max_tokens": 5, "action": None},
            ],
        ),
        ("metadata", [{"k" * 64: ""}], [{"k" * 65: ""}, {"a": "x" * 513}, {"a": None}, []]),
    ],
)
async def test_options_keep_to_their_ranges(
    caller: Caller, field: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        batch = await caller.batch(1, **{field: value})
        assert field == "start_paused" or batch[field] == value
    for value in bad:
        answer = await caller.post(BATCHES, {"processor": "noop", "requests": given(1), field: value})
        assert all(pointer.startswith(f"/{field}") for pointer in problems(answer)), value


@pytest.mark.parametrize("later", ["retry", "failure_thresholds"])
async def test_fields_of_later_versions_are_refused_not_ignored(caller: Caller, later: str) -> None:
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": given(1), later: {}})
    assert problems(answer) == {f"/{later}": "extra_forbidden"}


async def test_a_threshold_is_not_judged_by_less_than_ten_unless_it_says(caller: Caller) -> None:
    batch = await caller.batch(1, failure_threshold={"ratio": 0.1, "action": "fail"})
    assert batch["failure_threshold"] == {"ratio": 0.1, "minimum": 10, "action": "fail"}
    assert batch["budget"] is None


# --- webhooks -------------------------------------------------------------------------------------------------


async def with_webhook(caller: Caller, webhook: Any) -> httpx2.Response:
    return await caller.post(BATCHES, {"processor": "noop", "requests": given(1), "webhook": webhook})


async def test_a_webhook_is_shown_without_its_secret_which_is_stored_encrypted(
    caller: Caller, database: Database
) -> None:
    secret = "your-webhook-secret"
    made = await with_webhook(caller, {"url": "https://your-server.com/hook", "secret": secret})
    assert made.json()["data"]["webhook"] == {
        "url": "https://your-server.com/hook",
        "events": ["completed", "failed"],
    }
    assert secret not in made.text
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT id, webhook_secret FROM batch")
    assert row is not None
    assert secret.encode() not in row["webhook_secret"]
    assert VAULT.decrypt(row["webhook_secret"], f"webhook:{row['id']}") == secret.encode()


@pytest.mark.parametrize(
    "given_events", [["batch.completed", "cancelled"], ["completed", "batch.completed", "cancelled"]]
)
async def test_events_may_have_the_prefix_and_are_kept_without(
    caller: Caller, given_events: list[str]
) -> None:
    made = await with_webhook(caller, {"url": "https://a.example.com/", "events": given_events})
    assert made.json()["data"]["webhook"]["events"] == ["completed", "cancelled"]


@pytest.mark.parametrize(
    ("webhook", "pointer"),
    [
        ({}, "/webhook/url"),
        ("https://a.example.com/", "/webhook"),
        ({"url": "http://a.example.com/"}, "/webhook/url"),
        ({"url": "ftp://a.example.com/"}, "/webhook/url"),
        ({"url": "https://127.0.0.1/"}, "/webhook/url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "/webhook/url"),
        ({"url": "https://2130706433/"}, "/webhook/url"),
        ({"url": "https://user:pw@a.example.com/"}, "/webhook/url"),
        ({"url": "https://a.example.com:22/"}, "/webhook/url"),
        ({"url": "https://localhost/"}, "/webhook/url"),
        ({"url": "https://[::1]/"}, "/webhook/url"),
        ({"url": "https://a.example.com/" + "x" * 2048}, "/webhook/url"),
        ({"url": 5}, "/webhook/url"),
        ({"url": "https://a.example.com/", "events": ["item.failed"]}, "/webhook/events/0"),
        ({"url": "https://a.example.com/", "events": []}, "/webhook/events"),
        ({"url": "https://a.example.com/", "events": "completed"}, "/webhook/events"),
        ({"url": "https://a.example.com/", "secret": "x" * 256}, "/webhook/secret"),
        ({"url": "https://a.example.com/", "secret": ""}, "/webhook/secret"),
        ({"url": "https://a.example.com/", "method": "PUT"}, "/webhook/method"),
    ],
)
async def test_a_webhook_that_cannot_be_called_is_refused(caller: Caller, webhook: Any, pointer: str) -> None:
    assert list(problems(await with_webhook(caller, webhook))) == [pointer]


async def test_a_secret_of_255_characters_is_taken(caller: Caller) -> None:
    answer = await with_webhook(caller, {"url": "https://a.example.com/", "secret": "x" * 255})
    assert answer.status_code == 202


@pytest.mark.parametrize("text", ["x" * 1024 * 1024, "€" * 349_600, "😀" * 262_142], ids=[1, 3, 4])
async def test_an_item_of_more_than_a_mebibyte_is_refused(caller: Caller, text: str) -> None:
    """However many bytes each character has."""
    big = {"custom_id": "a", "input": {"text": text}}
    answer = await caller.post(BATCHES, {"processor": "noop", "requests": [big]})
    assert problems(answer) == {"/requests/0/input": "item_too_large"}


async def test_a_configuration_of_more_than_a_mebibyte_is_refused(caller: Caller) -> None:
    body = {
        "processor": "scripted",
        "config": {"do": "x" * (1024 * 1024)},
        "requests": [{"custom_id": "a", "input": {}}],
    }
    assert problems(await caller.post(BATCHES, body)) == {"/config": "config_too_large"}


async def test_a_configuration_of_very_many_parts_is_refused(caller: Caller) -> None:
    """To check it would keep everybody else waiting."""
    fields = {f"{number:x}": number for number in range(marks.MANY + 1)}
    body = {"processor": "noop", "config": fields, "requests": [{"custom_id": "a", "input": {"text": "a"}}]}
    assert problems(await caller.post(BATCHES, body)) == {"/config": "config_too_large"}
    stored = {"name": "many", "processor": "parse", "config": fields}
    assert problems(await caller.post("/api/v1/configurations", stored)) == {"/config": "config_too_large"}


async def test_large_bodies_are_read_one_after_the_other_while_others_are_answered(
    caller: Caller, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_answered, at_work, most, arrived = threading.Event(), [], 0, 0
    parse, read = json.parse, body.read_json_text

    async def counted_read(request: Request, max_bytes: int) -> bytes:
        nonlocal arrived
        text = await read(request, max_bytes)
        arrived += 1
        return text

    def slow_parse(text: bytes, kind: Any) -> Any:
        nonlocal most
        at_work.append(text)
        most = max(most, len(at_work))
        assert others_answered.wait(20), "the event loop stood still"
        at_work.pop()
        return parse(text, kind)

    monkeypatch.setattr(body, "read_json_text", counted_read)
    monkeypatch.setattr(json, "parse", slow_parse)
    requests = [{"custom_id": str(n), "input": {"text": "x" * 10_000}} for n in range(100)]
    large = [asyncio.create_task(caller.batch(requests)) for _ in range(3)]
    async with asyncio.timeout(20):
        while not (at_work and arrived == 3):
            await asyncio.sleep(0)
    assert (await service.client.get("/healthz")).status_code == 200
    for _ in range(50):
        await asyncio.to_thread(
            len, ""
        )  # threads begin in order: those of the other bodies would have by then
    others_answered.set()
    made = await asyncio.gather(*large)
    assert [one["total_requests"] for one in made] == [100, 100, 100]
    assert most == 1
