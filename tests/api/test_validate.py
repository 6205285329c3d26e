"""POST …/validate, and batches that take bad requests along as failed ones."""

from typing import Any
from uuid import uuid4

import pytest

import factories
from gristmill.db import Database
from service import Caller, new_key, problems

BATCHES = "/api/v1/batches"
GOOD = {"custom_id": "good", "input": {"text": "fine"}}
BAD = {"custom_id": "bad", "input": {"text": 7, "more": 1}}


async def validated(caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
    answer = await caller.post(f"{BATCHES}/validate", body)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def ask(n: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"req-{i}", "message": f"Question {i}"} for i in range(n)]


def given(n: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"req-{i}", "input": {"text": str(i)}} for i in range(n)]


async def stored(database: Database) -> list[int]:
    return await factories.sql(database, "SELECT count(*) FROM batch UNION ALL SELECT count(*) FROM item")


# --- validate -------------------------------------------------------------------------------------------------------


async def test_a_good_batch_is_valid_and_nothing_is_stored(caller: Caller, database: Database) -> None:
    found = await validated(caller, {"processor": "noop", "requests": given(3), "start_paused": True})
    assert found == {
        "valid": True,
        "total_requests": 3,
        "invalid_requests": 0,
        "input_bytes": 36,
        "estimate": {"input_tokens": 9, "method": "characters / 4"},
        "errors": [],
    }
    assert await stored(database) == [0, 0]


async def test_tokens_are_estimated_by_characters_not_bytes(caller: Caller) -> None:
    requests = [{"custom_id": "a", "input": {"text": "ü" * 100}}]
    found = await validated(caller, {"processor": "noop", "requests": requests})
    assert (found["input_bytes"], found["estimate"]["input_tokens"]) == (211, 28)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"processor": "nobody", "requests": [GOOD]},
        {"processor": "noop", "requests": [GOOD, GOOD, BAD, {"input": {"text": ""}}, 7]},
        {"processor": "noop", "requests": [GOOD], "priority": 1000, "webhook": {"url": "http://127.0.0.1/"}},
        {"processor": "noop", "requests": given(1001)},
        {"agent_id": str(uuid4()), "requests": ask(2)},
    ],
)
async def test_what_is_wrong_is_what_a_create_would_say(
    caller: Caller, database: Database, body: Any
) -> None:
    found = await validated(caller, body)
    assert found["valid"] is False
    assert {one["pointer"]: one["code"] for one in found["errors"]} == problems(
        await caller.post(BATCHES, body)
    )
    assert await stored(database) == [0, 0]


async def test_of_many_errors_a_hundred_are_told_and_all_bad_requests_with_options_of_their_own_are_counted(
    caller: Caller,
) -> None:
    requests = [{"custom_id": str(n), "input": {"text": n}} for n in range(1000)]
    found = await validated(caller, {"processor": "noop", "requests": requests, "on_invalid": "fail_items"})
    assert (found["valid"], len(found["errors"]), found["invalid_requests"]) == (True, 100, 1000)


async def test_an_unknown_agent_of_a_request_is_found(caller: Caller) -> None:
    requests = ask(2)
    requests[1]["agent_id"] = str(uuid4())
    found = await validated(caller, {"agent_id": await caller.agent(), "requests": requests})
    assert [one["pointer"] for one in found["errors"]] == ["/requests/1/agent_id"]
    assert found["invalid_requests"] == 1


async def test_limits_are_checked_as_in_a_create(caller: Caller) -> None:
    limits = {"failure_threshold": {"ratio": 2, "action": "fail"}, "budget": {"max_tokens": 0, "action": "x"}}
    found = await validated(caller, {"processor": "noop", "requests": given(1), **limits})
    pointers = {one["pointer"] for one in found["errors"]}
    assert pointers == {"/failure_threshold/ratio", "/budget/max_tokens", "/budget/action"}


async def test_what_is_no_json_object_is_refused_as_everywhere(caller: Caller) -> None:
    answer = await caller.post(f"{BATCHES}/validate", [])
    assert answer.status_code == 400
    reader = await new_key(caller.service, caller.tenant_id, ["batches:read"])
    assert (await reader.post(f"{BATCHES}/validate", {})).status_code == 403


# --- on_invalid -----------------------------------------------------------------------------------------------------


async def test_bad_requests_are_stored_as_failed_and_the_others_run(
    caller: Caller, database: Database
) -> None:
    requests = [BAD, GOOD, {"custom_id": "none"}, {**GOOD, "custom_id": "last"}]
    batch = await caller.batch(requests, on_invalid="fail_items")
    assert (batch["status"], batch["total_requests"], batch["failed_requests"]) == ("in_progress", 4, 2)
    assert (batch["pending_requests"], batch["throughput"]) == (2, None)
    assert await factories.sql(database, "SELECT first, last FROM span ORDER BY first") == [(1, 1), (3, 3)]
    assert await factories.sql(database, "SELECT kept FROM batch_count") == [2]  # no part of its speed
    assert await factories.violations(database) == []

    [bad, _, none, _] = await caller.data(f"{BATCHES}/{batch['id']}/results")
    assert (bad["status"], bad["error_code"], bad["attempt"], bad["history_id"]) == ("failed", 400, 0, None)
    assert bad["error"]["type"] == "invalid_request"
    assert bad["error_message"] == (
        "/input/text: Input should be a valid string; /input/more: Extra inputs are not permitted"
    )
    assert none["error_message"] == "/input: Field required"
    detail = await caller.data(f"{BATCHES}/{batch['id']}/results/bad")
    assert (detail["input"], detail["attempts"]) == (BAD["input"], [])
    assert await factories.drain(database, await factories.make_worker(database)) == 2
    shown = await caller.data(f"{BATCHES}/{batch['id']}")
    assert (shown["status"], shown["completed_requests"], shown["failed_requests"]) == ("completed", 2, 2)


async def test_a_batch_of_nothing_but_bad_requests_ends_at_once_and_says_so(
    caller: Caller, database: Database
) -> None:
    webhook = {"url": "https://a.example.com/"}
    bad = [{"custom_id": str(n), "input": {"text": n}} for n in range(150)]
    batch = await caller.batch(bad, on_invalid="fail_items", webhook=webhook, start_paused=True)
    assert (batch["status"], batch["failed_requests"], batch["progress"]) == ("completed", 150, 1.0)
    assert batch["completed_at"] is not None
    [delivery] = await caller.data(f"{BATCHES}/{batch['id']}/deliveries")
    assert delivery["event"] == "batch.completed"
    results = await caller.data(f"{BATCHES}/{batch['id']}/results?error_code=400&limit=1000")
    assert {one["error_message"] for one in results} == {"/input/text: Input should be a valid string"}
    assert await factories.violations(database) == []
    again = await caller.post(f"{BATCHES}/{batch['id']}/retry")
    assert problems(again) == {"": "nothing_to_retry"}


async def test_agents_chats_files_and_sizes_of_single_requests_are_theirs_to_fail(
    caller: Caller, database: Database
) -> None:
    requests = ask(5)
    requests[0]["agent_id"] = await caller.agent(publish=False)
    requests[1]["history_id"] = 999_999_999
    requests[2]["attached_file_uuids"] = [str(uuid4())]
    requests[3]["message"] = "x" * (1024 * 1024 + 1)
    body = {"agent_id": await caller.agent(), "requests": requests, "on_invalid": "fail_items"}
    made = await caller.post(BATCHES, body)
    assert made.status_code == 202, made.text
    results = await caller.data(f"{BATCHES}/{made.json()['data']['id']}/results")
    assert [one["error_message"] for one in results] == [
        "/agent_id: the agent has no published version",
        "/history_id: no such chat",
        "/attached_file_uuids/0: no such file",
        ": larger than 1048576 bytes",
        None,
    ]
    assert await factories.sql(database, "SELECT max(length(input)) FROM item") == [
        len(f'{{"message":"Question 2","attached_file_uuids":["{uuid4()}"]}}')
    ]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (
            [GOOD, {"input": {"text": 7}}],
            {"/requests/1/custom_id": "missing", "/requests/1/input/text": "string_type"},
        ),
        ([GOOD, BAD, GOOD], {"/requests/2/custom_id": "duplicate_custom_id"}),
        ([{**GOOD, "custom_id": "x" * 257}, BAD], {"/requests/0/custom_id": "string_too_long"}),
        ([GOOD, []], {"/requests/1": "object_type"}),
        ([], {"/requests": "too_short"}),
    ],
)
async def test_requests_without_a_custom_id_of_their_own_still_reject_them_all(
    caller: Caller, database: Database, requests: Any, expected: dict[str, str]
) -> None:
    body = {"processor": "noop", "requests": requests, "on_invalid": "fail_items"}
    assert problems(await caller.post(BATCHES, body)) == expected
    assert await stored(database) == [0, 0]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"config": {"x": 1}}, {"/config/x": "extra_forbidden"}),
        ({"webhook": {"url": "http://a.example.com/"}}, {"/webhook/url": "address_refused"}),
        ({"on_invalid": "ignore"}, {"/on_invalid": "literal_error"}),
    ],
)
async def test_what_is_wrong_with_the_batch_rejects_it_all(
    caller: Caller, database: Database, more: dict[str, Any], expected: dict[str, str]
) -> None:
    body = {"processor": "noop", "requests": [GOOD], "on_invalid": "fail_items", **more}
    assert problems(await caller.post(BATCHES, body)) == expected
    assert await stored(database) == [0, 0]
