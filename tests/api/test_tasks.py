"""GET /api/v1/tasks: seed 003's rules 2, 6, 7 and 11 in our words, and seed 000's list and details of tasks."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest

import factories
from gristmill.db import Database
from service import Caller, code_of, problems

TASKS = "/api/v1/tasks"
BATCHES = "/api/v1/batches"


async def page(caller: Caller, query: str = "") -> dict[str, Any]:
    answer = await caller.get(f"{TASKS}{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert list(body) == ["data", "pagination", "summary", "message", "error_code"]
    return body


def documents(*names: str | None) -> list[dict[str, Any]]:
    return [{"custom_id": f"doc-{n}", "input": {"file_name": name}} for n, name in enumerate(names)]


async def scripted(caller: Caller, *names: str | None, **fields: Any) -> dict[str, Any]:
    return await caller.batch(documents(*names), processor="scripted", **fields)


async def test_the_newest_batch_comes_first_and_ten_tasks_make_a_page(caller: Caller) -> None:
    old, new = await caller.batch(8), await caller.batch(4)
    body = await page(caller)
    shown = [(one["batch_id"], one["custom_id"]) for one in body["data"]]
    assert shown == [(new["id"], f"req-{n}") for n in range(4)] + [(old["id"], f"req-{n}") for n in range(6)]
    assert body["pagination"] == {
        "limit": 10,
        "offset": 0,
        "total_records": 12,
        "total_pages": 2,
        "current_page": 1,
        "next_page": f"http://127.0.0.1:8000{TASKS}?page_num=2&page_size=10",
        "prev_page": None,
        "next_cursor": None,
    }
    assert body["summary"] == {"total": 12, "pending": 12, "running": 0, "success": 0, "failed": 0}
    assert [one["custom_id"] for one in (await page(caller, "?page_num=2"))["data"]] == ["req-6", "req-7"]


async def test_a_task_has_the_words_of_its_item_and_of_its_batch(caller: Caller) -> None:
    batch = await scripted(caller, "Report.pdf", None, collection="books")
    named, nameless = (await page(caller))["data"]
    assert named == {
        "id": f"{batch['id']}-0",
        "batch_id": batch["id"],
        "custom_id": "doc-0",
        "type": "scripted",
        "status": "pending",
        "file_name": "Report.pdf",
        "collection": "books",
        "created_by": "test",
        "progress": 0.0,
        "created_at": batch["created_at"],
        "started_at": None,
        "processed_at": None,
        "error_code": None,
        "error_message": None,
    }
    assert (nameless["id"], nameless["file_name"]) == (f"{batch['id']}-1", None)


async def test_total_honours_every_filter_and_the_four_counters_all_but_the_status(
    caller: Caller, database: Database
) -> None:
    await caller.batch(10)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 6)
    ended = [factories.success(lease, n) for n in range(3)] + [factories.failure(lease, 3)]
    await factories.record(database, worker, factories.Flush({lease.id: 2}, ended))
    counters = {"pending": 4, "running": 2, "success": 3, "failed": 1}
    assert (await page(caller))["summary"] == {"total": 10, **counters}
    for status, total in {"pending": 4, "processing": 2, "success": 3, "failed": 1}.items():
        body = await page(caller, f"?status={status}&page_size=2")
        assert body["summary"] == {"total": total, **counters}
        assert {one["status"] for one in body["data"]} == {status}
        assert body["pagination"]["total_records"] == total
    [failed] = (await page(caller, "?status=failed"))["data"]
    assert (failed["error_code"], failed["error_message"], failed["progress"]) == (500, "as asked", 1.0)


async def test_a_page_past_the_end_is_empty_with_the_right_totals(caller: Caller) -> None:
    await caller.batch(3)
    body = await page(caller, "?page_num=65535&page_size=1000")
    assert (body["data"], body["summary"]["total"], body["pagination"]["total_pages"]) == ([], 3, 1)
    assert body["pagination"]["next_page"] is None


async def test_without_any_batch_there_is_an_empty_page(caller: Caller) -> None:
    for query in ("", "?file_name=x", "?status=failed"):
        body = await page(caller, query)
        assert body["data"] == []
        assert body["summary"] == {"total": 0, "pending": 0, "running": 0, "success": 0, "failed": 0}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?page_num=0", {"page_num": "out_of_range"}),
        ("?page_num=65536", {"page_num": "out_of_range"}),
        ("?page_size=0", {"page_size": "out_of_range"}),
        ("?page_size=1001", {"page_size": "out_of_range"}),
        ("?page_num=1.0&page_size=ten", {"page_num": "invalid_integer", "page_size": "invalid_integer"}),
        ("?status=SUCCESS", {"status": "unknown_value"}),
        ("?batch_id=7", {"batch_id": "invalid_uuid"}),
        ("?type=a&processor=a", {"processor": "repeated_parameter"}),
        ("?limit=5", {"limit": "unknown_parameter"}),
        (f"?file_name={'x' * 257}", {"file_name": "string_too_long"}),
    ],
)
async def test_what_cannot_be_asked_is_refused(caller: Caller, query: str, expected: dict[str, str]) -> None:
    assert problems(await caller.get(f"{TASKS}{query}")) == expected


async def test_filters_choose_and_links_keep_them(caller: Caller) -> None:
    red = await scripted(caller, *[f"Bericht {n} Größe.PDF" for n in range(5)], collection="red & co")
    await scripted(caller, "bericht.txt", collection="blue")
    await caller.batch(2)
    for query, total in {
        "?type=scripted": 6,
        "?processor=noop": 2,
        "?collection=blue": 1,
        "?created_by=test": 8,
        "?created_by=nobody": 0,
        f"?batch_id={red['id']}": 5,
        "?file_name=GRÖSSE": 0,  # one character stays one
        "?file_name=größe.pdf": 5,
        "?file_name=BERICHT&collection=blue": 1,
        "?file_name=": 8,
    }.items():
        body = await page(caller, query)
        assert body["summary"]["total"] == len(body["data"]) == total, query
    body = await page(caller, "?file_name=größe&collection=red%20%26%20co&status=pending&page_size=2")
    link = body["pagination"]["next_page"]
    assert dict(parse_qsl(urlsplit(link).query)) == {
        "page_num": "2",
        "page_size": "2",
        "file_name": "größe",
        "collection": "red & co",
        "status": "pending",
    }
    second = (await caller.get(link.removeprefix("http://127.0.0.1:8000"))).json()
    assert [one["custom_id"] for one in second["data"]] == ["doc-2", "doc-3"]


async def test_the_metadata_of_batches_chooses_among_their_tasks(caller: Caller) -> None:
    await scripted(caller, "a.pdf", "b.pdf", metadata={"shelf": "3", "room": "east"})
    await scripted(caller, "a.pdf", metadata={"shelf": "3"})
    await scripted(caller, "a.pdf")
    for query, total in {
        "?metadata.shelf=3": 3,
        "?metadata.shelf=3&metadata.room=east": 2,
        "?metadata.shelf=3&file_name=b": 1,
        "?metadata.shelf=4": 0,
        "?metadata.door=3": 0,
    }.items():
        assert (await page(caller, query))["summary"]["total"] == total, query
    link = (await page(caller, "?metadata.shelf=3&page_size=1"))["pagination"]["next_page"]
    assert dict(parse_qsl(urlsplit(link).query))["metadata.shelf"] == "3"
    assert problems(await caller.get(f"{TASKS}?metadata.=3")) == {"metadata.": "unknown_parameter"}


async def test_pages_put_together_are_every_task_once(caller: Caller) -> None:
    for size in (1, 7, 3, 12):
        await caller.batch(size)
    seen, link = [], f"{TASKS}?page_size=4"
    while link:
        body = (await caller.get(link.removeprefix("http://127.0.0.1:8000"))).json()
        seen += [one["id"] for one in body["data"]]
        link = body["pagination"]["next_page"]
    assert len(seen) == len(set(seen)) == 23


async def test_another_tenants_tasks_are_not_there(caller: Caller, other: Caller) -> None:
    theirs = await scripted(other, "secret.pdf", collection="c")
    for query in ("", "?file_name=secret", "?collection=c", f"?batch_id={theirs['id']}"):
        body = await page(caller, query)
        assert (body["data"], body["summary"]["total"]) == ([], 0)
    assert (await page(other))["summary"]["total"] == 1


async def test_one_task_is_shown_with_its_input_its_result_and_its_attempts(
    caller: Caller, database: Database
) -> None:
    batch = await caller.batch(2)
    worker = await factories.make_worker(database)
    [lease] = await factories.claim(database, worker, 2)
    ended = [factories.success(lease, 0), factories.failure(lease, 1)]
    await factories.record(database, worker, factories.Flush({lease.id: 0}, ended))
    await caller.post(f"{BATCHES}/{batch['id']}/retry")

    ended_well = await caller.data(f"{TASKS}/{batch['id']}-0")
    assert (ended_well["status"], ended_well["output"], ended_well["progress"]) == (
        "success",
        {"was": 0},
        1.0,
    )
    assert ended_well["input"] == {"text": "0"}
    again = await caller.data(f"{TASKS}/{batch['id'].upper()}-1")
    assert (again["id"], again["status"], again["type"]) == (f"{batch['id']}-1", "pending", "noop")
    assert [(one["run"], one["error_code"]) for one in again["attempts"]] == [(1, 500)]


async def test_an_unknown_task_is_404(caller: Caller, other: Caller) -> None:
    mine, theirs = (await caller.batch(2))["id"], (await other.batch(2))["id"]
    for task_id in [
        f"{mine}-2", f"{mine}-00", f"{mine}-01", f"{mine}--1", f"{mine}-9999999", f"{mine}-{'9' * 40}", f"{mine}-x",
        f"{mine}-", mine, f"{mine}-²", f"{theirs}-0", f"{UUID(int=7)}-0", "7", "%00",
    ]:  # fmt: skip
        assert code_of(await caller.get(f"{TASKS}/{task_id}"), 404) == "not_found", task_id


async def test_one_bad_document_disturbs_no_other(caller: Caller, database: Database) -> None:
    """Seed 000, rule 10: in the list of tasks, the bad one has failed and the others go on."""
    requests = documents("good.pdf", "bad.pdf", "fine.pdf")
    requests[1]["input"]["sleep_seconds"] = -1
    batch = await caller.batch(requests, processor="scripted", on_invalid="fail_items")
    assert batch["status"] == "in_progress"
    shown = (await page(caller))["data"]
    assert [one["status"] for one in shown] == ["pending", "failed", "pending"]
    assert (shown[1]["error_code"], shown[1]["file_name"]) == (400, None)
