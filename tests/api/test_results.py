"""Seed 004, rules 17 to 23: results in every state, their pages, one of them, streams of all."""

import csv
import io
import random
import tracemalloc
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
import pytest

import factories
from gristmill.api import envelope, result_streams, result_views
from gristmill.api import results as routes
from gristmill.api.result_text import ResultText
from gristmill.db import Database
from gristmill.domain.outcomes import Turn
from gristmill.domain.usage import Call, Usage
from service import Caller, code_of, problems

BATCHES = "/api/v1/batches"
SEED_KEYS = [
    "custom_id",
    "status",
    "response_content",
    "response_usage",
    "error_code",
    "error_message",
    "history_id",
    "conversation_id",
    "processed_at",
]


async def half_done(caller: Caller, database: Database) -> str:
    """A batch of six: success, failed, success, processing, pending, pending."""
    batch = await caller.batch(6)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 4)
    usage = Usage((Call("m", "tool_call", 150, 45),), Call("m", "main_response", 10, 5))
    ended = [
        factories.success(lease, 2, content="last first"),
        factories.failure(lease, 1),
        factories.success(
            lease, 0, content="Nine to six.", usage=orjson.dumps(usage.as_json()).decode(), prompt_tokens=160
        ),
    ]
    await factories.record(database, worker, factories.Flush({lease.id: 1}, ended), alone=True)
    return str(batch["id"])


async def test_results_show_requests_in_every_state_in_input_order(
    caller: Caller, database: Database
) -> None:
    batch_id = await half_done(caller, database)
    shown = await caller.data(f"{BATCHES}/{batch_id}/results")
    assert [one["custom_id"] for one in shown] == [f"req-{n}" for n in range(6)]
    states = [one["status"] for one in shown]
    assert states == ["success", "failed", "success", "processing", "pending", "pending"]


async def test_a_success_has_content_and_usage_and_no_error(caller: Caller, database: Database) -> None:
    batch_id = await half_done(caller, database)
    success = (await caller.data(f"{BATCHES}/{batch_id}/results"))[0]
    assert list(success)[:9] == SEED_KEYS
    assert success["response_content"] == "Nine to six."
    assert (success["error_code"], success["error_message"], success["error"]) == (None, None, None)
    assert success["processed_at"].endswith("Z")
    usage = success["response_usage"]
    assert list(usage) == [
        "tool_calls",
        "total_calls",
        "total_tokens",
        "main_response",
        "total_prompt_tokens",
        "total_completion_tokens",
    ]
    calls = [*usage["tool_calls"], usage["main_response"]]
    assert usage["total_calls"] == len(calls) == 2
    assert usage["total_tokens"] == sum(call["total_tokens"] for call in calls)
    assert usage["total_tokens"] == usage["total_prompt_tokens"] + usage["total_completion_tokens"] == 210
    assert success["output"] == {"was": 0}


async def test_a_failure_has_a_number_of_the_contract_and_the_detail_beside_it(
    caller: Caller, database: Database
) -> None:
    batch_id = await half_done(caller, database)
    failed = (await caller.data(f"{BATCHES}/{batch_id}/results"))[1]
    assert (failed["response_content"], failed["response_usage"]) == (None, None)
    assert (failed["error_code"], failed["error_message"]) == (500, "as asked")
    assert failed["error"]["type"] == "test"
    assert failed["attempt"] == 1


async def test_a_request_that_has_not_ended_has_nulls(caller: Caller, database: Database) -> None:
    batch_id = await half_done(caller, database)
    for waiting in (await caller.data(f"{BATCHES}/{batch_id}/results"))[3:]:
        assert {waiting[name] for name in SEED_KEYS[2:]} == {None}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("status=success", [0, 2]),
        ("status=failed", [1]),
        ("status=processing", [3]),
        ("status=pending", [4, 5]),
        ("error_code=500", [1]),
        ("error_code=408", []),
        ("custom_id=req-4", [4]),
        ("custom_id=REQ-4", []),
        ("status=success&custom_id=req-2", [2]),
        ("status=success&error_code=500", []),
        ("status=success&limit=1&offset=1", [2]),
    ],
)
async def test_results_are_filtered(
    caller: Caller, database: Database, query: str, wanted: list[int]
) -> None:
    batch_id = await half_done(caller, database)
    answer = (await caller.get(f"{BATCHES}/{batch_id}/results?{query}")).json()
    assert [one["custom_id"] for one in answer["data"]] == [f"req-{n}" for n in wanted]
    assert answer["pagination"]["total_records"] == (2 if "limit" in query else len(wanted))


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=completed",
        "error_code=404",
        "error_code=x",
        "limit=1001",
        "custom_id=%00",
        "x=1",
    ],
)
async def test_a_filter_that_cannot_be_meant_is_refused(caller: Caller, query: str) -> None:
    batch = await caller.batch(1)
    problems(await caller.get(f"{BATCHES}/{batch['id']}/results?{query}"))


async def test_pages_during_a_run_hold_every_request_exactly_once(caller: Caller, database: Database) -> None:
    batch = await caller.batch(30)
    worker = await factories.make_worker(database)
    seen: list[str] = []
    for offset in range(0, 30, 7):
        seen += [
            one["custom_id"]
            for one in await caller.data(f"{BATCHES}/{batch['id']}/results?limit=7&offset={offset}")
        ]
        leases = await factories.claim(database, worker, 5)
        await factories.record(database, worker, factories.all_of(leases), alone=True)
    assert seen == [f"req-{n}" for n in range(30)]


async def test_a_thousand_results_fit_one_page(caller: Caller) -> None:
    batch = await caller.batch(1000)
    answer = (await caller.get(f"{BATCHES}/{batch['id']}/results?limit=1000")).json()
    assert len(answer["data"]) == 1000
    assert answer["pagination"]["next_page"] is None


@pytest.mark.parametrize("custom_id", ["req/1?a=b#c", "ü 🔑", "100%", "a+b", "%2F", ".", "a\nb"])
async def test_one_result_is_found_by_any_custom_id(caller: Caller, custom_id: str) -> None:
    batch = await caller.batch([{"custom_id": custom_id, "input": {"text": "hello"}}])
    path = f"{BATCHES}/{batch['id']}/results/{quote(custom_id, safe='')}"
    if custom_id != ".":  # which every client takes out of a path
        shown = await caller.data(path)
        assert (shown["custom_id"], shown["input"], shown["attempts"]) == (custom_id, {"text": "hello"}, [])


async def test_one_result_shows_the_attempts_before_the_last(caller: Caller, database: Database) -> None:
    batch = await caller.batch(1)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 1)
    flush = factories.Flush({lease.id: 0}, [], [factories.retry(lease, 0)])
    await factories.record(database, worker, flush, alone=True)
    await factories.drain(database, worker)
    shown = await caller.data(f"{BATCHES}/{batch['id']}/results/req-0")
    assert (shown["status"], shown["attempt"]) == ("success", 2)
    [attempt] = shown["attempts"]
    assert (attempt["attempt"], attempt["error_code"], attempt["error"]["message"]) == (1, 500, "as asked")


@pytest.mark.parametrize("custom_id", ["nothing", "REQ-0", "%00", "", "x" * 400])
async def test_an_unknown_custom_id_is_404(caller: Caller, custom_id: str) -> None:
    batch = await caller.batch(1)
    assert code_of(await caller.get(f"{BATCHES}/{batch['id']}/results/{custom_id}"), 404) == "not_found"


async def test_a_chat_goes_on_under_the_history_id_of_its_first_answer(
    caller: Caller, database: Database
) -> None:
    agent_id = await caller.agent()
    worker = await factories.make_worker(database, processors=["agent_message"])

    async def turn(request: dict[str, Any], reply: str) -> Any:
        asked = {"agent_id": agent_id, "requests": [{"custom_id": "a", **request}]}
        batch = (await caller.post(BATCHES, asked)).json()["data"]
        [lease] = await factories.claim(database, worker, {"agent_message": 1})
        said = Turn(request["message"], reply, request.get("history_id"), "Ann's chat", "ann", UUID(agent_id))
        ended = factories.success(lease, 0, content=reply, history_id=request.get("history_id"), turn=said)
        await factories.record(database, worker, factories.Flush({lease.id: 0}, [ended]), alone=True)
        return (await caller.data(f"{BATCHES}/{batch['id']}/results"))[0]

    first = await turn({"message": "hello"}, "hi")
    second = await turn({"message": "again", "history_id": first["history_id"]}, "well")
    assert isinstance(first["history_id"], int)
    assert second["history_id"] == first["history_id"]
    assert second["conversation_id"] > first["conversation_id"]
    messages = await caller.data(f"/api/v1/chats/{first['history_id']}/messages")
    assert [(one["role"], one["content"]) for one in messages] == [
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "again"),
        ("assistant", "well"),
    ]


async def large(caller: Caller, database: Database, count: int, size: int) -> str:
    """The id of a batch whose results have so many characters each."""
    batch = await caller.batch(count)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, count)
    for n in range(count):
        ended = [factories.success(lease, n, content="x" * size)]
        flush = factories.Flush({lease.id: count - n - 1}, ended)
        await factories.record(database, worker, flush, alone=True)
    return str(batch["id"])


async def walk(caller: Caller, path: str, following: Callable[[Any], str | None]) -> list[list[str]]:
    """The custom ids of all pages."""
    pages, at = [], path
    while at:
        answer = (await caller.get(at)).json()
        pages.append([one["custom_id"] for one in answer["data"]])
        at = following(answer["pagination"]) or ""
    return pages


@pytest.mark.parametrize("query", ["limit=8", "limit=8&status=success"])
async def test_a_page_of_large_results_ends_early_and_the_next_goes_on_behind_it(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(routes, "PAGE_BYTES", 25_000)
    path = f"{BATCHES}/{await large(caller, database, 10, 10_000)}/results?{query}"
    names = [f"req-{n}" for n in range(10)]
    expected = [names[:3], names[3:6], names[6:9], names[9:]]
    assert await walk(caller, path, lambda one: one["next_page"]) == expected

    def by_cursor(one: Any) -> str | None:
        return f"{path}&cursor={one['next_cursor']}" if one["next_cursor"] else None

    assert await walk(caller, path, by_cursor) == expected


async def test_a_page_of_a_great_deal_is_held_in_bounded_memory(caller: Caller, database: Database) -> None:
    path = f"{BATCHES}/{await large(caller, database, 40, 2**20)}/results?limit=1000"
    tracemalloc.start()
    try:
        answer = await caller.get(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(answer.json()["data"]) == routes.PAGE_BYTES // 2**20
    assert answer.json()["pagination"]["total_records"] == 40
    assert peak < 7 * routes.PAGE_BYTES, f"{peak / 2**20:.0f} MiB"


async def test_the_text_of_a_result_is_that_of_its_view(caller: Caller, database: Database) -> None:
    batch_id = await half_done(caller, database)
    async with database.connection() as connection:
        batch = await factories.get(database, UUID(batch_id), caller.tenant_id)
        found, _ = await routes.results.rows(connection, batch, limit=50, most_bytes=2**20)
    text = ResultText(result_views.view)
    assert {one["status"] for one in found} >= {1, 2, None}
    for row in found:
        assert text.of(row) == envelope.dumps(result_views.view(routes.results.result_of(row))).decode()


# --- streams --------------------------------------------------------------------------------------------------


async def stream(caller: Caller, batch_id: str, media_type: str, query: str = "") -> str:
    answer = await caller.get(f"{BATCHES}/{batch_id}/results{query}", headers={"accept": media_type})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith(media_type.partition(";")[0])
    return answer.text


async def test_ndjson_streams_all_results_in_the_shape_of_pages(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_streams, "WINDOW", 4)
    batch_id = await half_done(caller, database)
    text = await stream(caller, batch_id, "application/x-ndjson")
    pages = await caller.data(f"{BATCHES}/{batch_id}/results")
    assert [orjson.loads(line) for line in text.splitlines()] == pages
    assert text.endswith("\n")


async def test_a_stream_holds_no_more_than_a_few_large_results_at_once(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await caller.batch(60)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 60)
    ended = [factories.success(lease, n, content="x" * 100_000) for n in range(60)]
    await factories.record(database, worker, factories.Flush({lease.id: 60}, ended), alone=True)
    monkeypatch.setattr(result_streams, "WINDOW_BYTES", 510_000)
    read, rows = [], routes.results.rows

    async def watched(*arguments: Any, **more: Any) -> Any:
        found, total = await rows(*arguments, **more)
        read.append(len(found))
        return found, total

    monkeypatch.setattr(routes.results, "rows", watched)
    text = await stream(caller, str(batch["id"]), "application/x-ndjson")
    assert [orjson.loads(line)["custom_id"] for line in text.splitlines()] == [f"req-{n}" for n in range(60)]
    assert read == [6] * 10


async def test_a_stream_of_small_results_takes_few_reads(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await caller.batch(1000)
    limits, rows = [], routes.results.rows

    async def watched(*arguments: Any, **more: Any) -> Any:
        limits.append(more["limit"])
        return await rows(*arguments, **more)

    monkeypatch.setattr(routes.results, "rows", watched)
    await stream(caller, str(batch["id"]), "application/x-ndjson")
    assert limits == [500, 500]


async def test_a_window_is_asked_for_before_text_is_made_of_the_one_before(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that Postgres reads it meanwhile."""
    batch = await caller.batch(9)
    monkeypatch.setattr(result_streams, "WINDOW", 3)
    seen, rows, of = [], routes.results.rows, ResultText.of

    async def asked(*arguments: Any, **more: Any) -> Any:
        seen.append("asked")
        return await rows(*arguments, **more)

    def made(text: ResultText, row: Any) -> str:
        seen.append("made")
        return of(text, row)

    monkeypatch.setattr(routes.results, "rows", asked)
    monkeypatch.setattr(ResultText, "of", made)
    await stream(caller, str(batch["id"]), "application/x-ndjson")
    window = ["made"] * 3
    assert seen == ["asked", "asked", *window, "asked", *window, *window]


async def test_a_stream_keeps_the_filters(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_streams, "WINDOW", 1)
    batch_id = await half_done(caller, database)
    text = await stream(caller, batch_id, "application/x-ndjson", "?status=success")
    assert [orjson.loads(line)["custom_id"] for line in text.splitlines()] == ["req-0", "req-2"]


async def test_csv_has_a_head_and_a_row_per_request(caller: Caller, database: Database) -> None:
    batch_id = await half_done(caller, database)
    rows = list(csv.DictReader(io.StringIO(await stream(caller, batch_id, "text/csv; charset=utf-8"))))
    assert [row["custom_id"] for row in rows] == [f"req-{n}" for n in range(6)]
    assert (rows[0]["status"], rows[0]["response_content"]) == ("success", "Nine to six.")
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == ("160", "50")
    assert (rows[1]["error_code"], rows[1]["error_type"], rows[1]["error_message"]) == (
        "500",
        "test",
        "as asked",
    )
    assert rows[5]["processed_at"] == ""


async def test_no_cell_of_a_csv_runs_as_a_formula(caller: Caller, database: Database) -> None:
    ids = ["=1+1", "+1", "-1", "@cmd", "\tx", "\rx", "plain", 'a"b,c\nd']
    batch = await caller.batch([{"custom_id": one, "input": {"text": ""}} for one in ids])
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 8)
    ended = [factories.success(lease, n, content=one) for n, one in enumerate(ids)]
    await factories.record(database, worker, factories.Flush({lease.id: 0}, ended), alone=True)
    text = await stream(caller, batch["id"], "text/csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for column in ("custom_id", "response_content"):
        assert [row[column] for row in rows] == [f"'{one}" for one in ids[:6]] + ids[6:]


async def test_a_stream_goes_on_behind_its_cursor(caller: Caller, database: Database) -> None:
    batch_id = await half_done(caller, database)
    whole = (await stream(caller, batch_id, "application/x-ndjson")).splitlines()
    assert [orjson.loads(line)["ordinal"] for line in whole] == list(range(6))
    for cursor in range(-1, 6):
        rest = await stream(caller, batch_id, "application/x-ndjson", f"?cursor={cursor}")
        assert rest.splitlines() == whole[cursor + 1 :]
    table = (await stream(caller, batch_id, "text/csv")).splitlines()
    assert (await stream(caller, batch_id, "text/csv", "?cursor=3")).splitlines() == table[5:]


async def test_a_stream_tells_how_far_everything_has_ended(caller: Caller, database: Database) -> None:
    async def told() -> tuple[str, str]:
        answer = await caller.get(
            f"{BATCHES}/{batch['id']}/results?cursor=999999", headers={"accept": "application/x-ndjson"}
        )
        assert (answer.status_code, answer.content) == (200, b"")
        return answer.headers["x-incomplete"], answer.headers["x-last-ordinal"]

    batch = await caller.batch(4)
    assert await told() == ("true", "-1")
    worker = await factories.make_worker(database)
    [first] = await factories.claim(database, worker, 2)
    [second] = await factories.claim(database, worker, 1)
    await factories.record(database, worker, factories.all_of([second]), alone=True)
    assert await told() == ("true", "-1")
    await factories.record(database, worker, factories.all_of([first]), alone=True)
    assert await told() == ("true", "2")
    await factories.drain(database, worker)
    assert await told() == ("false", "3")


async def test_who_comes_back_for_the_rest_has_every_result_once_and_ended(
    caller: Caller, database: Database
) -> None:
    """While items end in any order."""
    batch = await caller.batch(40)
    worker = await factories.make_worker(database)
    chance = random.Random(11)
    leases = [lease for _ in range(10) for lease in await factories.claim(database, worker, 4)]
    chance.shuffle(leases)
    taken: list[dict[str, Any]] = []
    incomplete = "true"
    while incomplete == "true":
        if leases:
            await factories.record(database, worker, factories.all_of([leases.pop()]), alone=True)
        cursor = taken[-1]["ordinal"] if taken else -1
        answer = await caller.get(
            f"{BATCHES}/{batch['id']}/results?cursor={cursor}", headers={"accept": "application/x-ndjson"}
        )
        incomplete, last = answer.headers["x-incomplete"], int(answer.headers["x-last-ordinal"])
        lines = [orjson.loads(line) for line in answer.text.splitlines()]
        taken += [line for line in lines if line["ordinal"] <= last]
    assert [one["ordinal"] for one in taken] == list(range(40))
    assert {one["status"] for one in taken} == {"success"}


@pytest.mark.parametrize("cursor", ["x", "1.5", "-2", "1000001", ""])
async def test_the_cursor_of_a_stream_is_an_ordinal(caller: Caller, cursor: str) -> None:
    batch = await caller.batch(1)
    answer = await caller.get(
        f"{BATCHES}/{batch['id']}/results?cursor={cursor}", headers={"accept": "application/x-ndjson"}
    )
    assert answer.status_code == 400


async def test_a_stream_has_no_pages(caller: Caller) -> None:
    batch = await caller.batch(1)
    answer = await caller.get(
        f"{BATCHES}/{batch['id']}/results?limit=5", headers={"accept": "application/x-ndjson"}
    )
    assert problems(answer) == {"limit": "unknown_parameter"}


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/html, application/xml;q=0.9", "nonsense"]
)
async def test_any_other_accept_gets_pages(caller: Caller, accept: str) -> None:
    batch = await caller.batch(1)
    answer = await caller.get(f"{BATCHES}/{batch['id']}/results", headers={"accept": accept})
    assert answer.json()["pagination"]["total_records"] == 1
