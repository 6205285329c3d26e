"""The eleven behaviours of seed 003, in their order, against a whole service that works."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from served import Served
from service import new_key
from stranger import Stranger, arrive

from .conftest import APPLICATION, PROJECT, Koo

STORY = b"""# The mill

The old mill grinds the grain of the whole village to flour. The miller lives right beside the river all year.

| Part | Count |
|------|-------|
| Stone | 2 |
"""
FAILS_ONCE = (
    b"[fault=status:400*1] This document makes the model refuse it once, and then it does not any more."
)


def code_of(answer: Any, status: int) -> str:
    """The code of a refusal, whose shape is checked on the way."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert sorted(body) == ["error_code", "error_msg"]
    assert body["error_msg"]
    code: str = body["error_code"]
    return code


@pytest.mark.parametrize(
    ("project", "application", "repo"),
    [
        ("1project", APPLICATION, "kb"),
        (PROJECT, "-app", "kb"),
        (PROJECT, "a" * 65, "kb"),
        (PROJECT, APPLICATION, "k" * 65),
        (PROJECT, APPLICATION, "k%20b"),
        ("%C3%A4b", APPLICATION, "kb"),
        (PROJECT, APPLICATION, "kb%0A"),
    ],
)
async def test_1_ids_in_the_path_have_their_ranges(
    koo: Koo, project: str, application: str, repo: str
) -> None:
    odd = replace(koo, project=project, application=application, repo=repo)
    for method, path in (
        ("GET", "/tasks"),
        ("POST", "/tasks"),
        ("PUT", "/files/retry"),
        ("GET", "/task-detail/x"),
    ):
        assert code_of(await odd.send(method, path), 400) == "KOS.00000400"
    longest = replace(koo, project="p" * 64, application="A" + "_" * 63, repo="0" * 64)
    assert (await longest.tasks())["total"] == 0


@pytest.mark.parametrize(
    "query", ["page_size=0", "page_size=65536", "page_num=0", "page_num=65536", "page_num=a", "page_size=1.5"]
)
async def test_2_pages_have_a_range(koo: Koo, query: str) -> None:
    answer = await koo.send("GET", f"/tasks?{query}")
    assert code_of(answer, 400) == "KOS.00000400"
    assert answer.json()["error_msg"].startswith(query.partition("=")[0])


async def test_2_a_page_is_of_ten_and_one_past_the_end_is_empty_with_the_same_totals(koo: Koo) -> None:
    files = [await koo.stranger.upload(STORY, f"{n}.md") for n in range(12)]
    assert await koo.create("TABLE_EXTRACTION", files) == (12, 12)
    first = await koo.settled(12)
    assert (first["page_size"], first["page_num"], len(first["tasks"])) == (10, 1, 10)
    second = await koo.tasks("?page_num=2")
    seen = [one["id"] for one in first["tasks"] + second["tasks"]]
    assert (len(second["tasks"]), len(set(seen))) == (2, 12)
    beyond = await koo.tasks("?page_num=65535&page_size=65535")
    assert (beyond["tasks"], beyond["total"], beyond["success_count"]) == ([], 12, 12)
    whole = await koo.tasks("?page_size=65535&unknown=passed-over")
    assert [one["id"] for one in whole["tasks"]] == seen


async def test_3_tasks_are_chosen_by_type_status_name_and_creator(koo: Koo) -> None:
    story = await koo.stranger.upload(STORY, "The Story.md")
    noise = await koo.stranger.upload(bytes(range(256)) * 20, "Noise.bin")
    await koo.create("TABLE_EXTRACTION", [story, noise])
    await koo.create("QA", [story])
    await koo.settled(3)

    async def names(query: str) -> list[tuple[str, str]]:
        return [(one["name"], one["status"]) for one in (await koo.tasks(query))["tasks"]]

    assert await names("?task_type=QA") == [("The Story.md", "SUCCESS")]
    assert await names("?task_type=TABLE_EXTRACTION&task_status=ERROR") == [("Noise.bin", "ERROR")]
    assert await names("?task_type=DELETE_TABLES") == await names("?task_type=RETRY_FILES") == []
    assert [name for name, _ in await names("?file_name=story")] == ["The Story.md"] * 2
    assert await names("?file_name=sto%25y") == []
    assert len(await names("?create_user=test")) == 3
    assert await names(f"?create_user={'x' * 64}") == []
    for bad in ("task_type=DOC", "task_status=success", "create_user=", f"create_user={'x' * 65}"):
        assert code_of(await koo.send("GET", f"/tasks?{bad}"), 400) == "KOS.00000400"


async def test_4_a_token_is_required_and_its_tenant_sees_its_own_tasks_alone(mill: Served, koo: Koo) -> None:
    await koo.create("TABLE_EXTRACTION", [await koo.stranger.upload(STORY, "a.md")])
    [task] = (await koo.settled(1))["tasks"]
    without = await mill.client.get(f"{koo.path}/tasks")
    wrong = await mill.client.get(f"{koo.path}/tasks", headers={"X-Auth-Token": "nonsense"})
    assert code_of(without, 401) == code_of(wrong, 401) == "KOS.00000401"
    elsewhere = replace(koo, stranger=await arrive(mill))
    assert (await elsewhere.tasks())["total"] == 0
    for path in (f"/task-detail/{task['id']}", f"/tasks/{task['id']}"):
        assert code_of(await elsewhere.send("GET", path), 404) == "KOS.00000404"
        assert (await koo.send("GET", path)).status_code == 200
    reader = await new_key(koo.stranger.service, koo.stranger.tenant_id, ["batches:read"])
    reading = replace(koo, stranger=Stranger(reader.service, reader.tenant_id, reader.key))
    assert (await reading.tasks())["total"] == 1
    for method, path in (("POST", "/tasks"), ("PUT", "/files/retry")):
        assert code_of(await reading.send(method, path, json={}), 403) == "KOS.00000403"
    writer = await new_key(koo.stranger.service, koo.stranger.tenant_id, ["batches:write", "files:write"])
    writing = replace(koo, stranger=Stranger(writer.service, writer.tenant_id, writer.key))
    for path in ("/tasks", f"/tasks/{task['id']}", f"/task-detail/{task['id']}"):
        assert code_of(await writing.send("GET", path), 403) == "KOS.00000403"


async def test_5_a_task_has_the_fields_of_the_seed_and_no_others(koo: Koo) -> None:
    story = await koo.stranger.upload(STORY, "story.md")
    noise = await koo.stranger.upload(bytes(range(256)) * 20, "noise.bin")
    await koo.create("TABLE_EXTRACTION", [story, noise])
    body = await koo.settled(2)
    assert sorted(body) == [
        "fail_count", "page_num", "page_size", "pending_count", "running_count", "success_count", "tasks", "total",
    ]  # fmt: skip
    good, bad = body["tasks"]
    assert sorted(good) == ["create_time", "id", "name", "process", "status", "type"]
    assert sorted(bad) == ["create_time", "id", "name", "process", "status", "task_desc", "type"]
    assert (good["name"], good["type"], good["process"]) == ("story.md", "TABLE_EXTRACTION", 1)
    assert bad["task_desc"] == "This kind of file cannot be read."
    assert isinstance(good["process"], float)
    assert good["create_time"].isdecimal()
    assert len(good["create_time"]) == 13
    assert len(good["id"]) <= 64


async def test_5_progress_is_between_0_and_1_while_a_task_runs(mill: Served, koo: Koo) -> None:
    held = asyncio.Event()
    mill.llm.gate = lambda request: held if "third" in request.said else None
    text = "\n\n".join(
        f"# Part {n}\n\nThis is the {n} part of it, which says: {n}." for n in ("first", "second", "third")
    )
    try:
        await koo.create("QA", [await koo.stranger.upload(text.encode(), "parts.md")])
        async with asyncio.timeout(60):
            while not 0 < (task := (await koo.tasks())["tasks"][0])["process"] < 1:
                await asyncio.sleep(0.02)
        assert task["status"] == "RUNNING"
    finally:
        held.set()
        mill.llm.gate = lambda request: None
    assert (await koo.settled(1))["tasks"][0]["process"] == 1


async def test_5_a_task_of_a_paused_batch_is_pending_and_shows_no_other_word(mill: Served, koo: Koo) -> None:
    held = asyncio.Event()
    mill.llm.gate = lambda request: held
    try:
        # More than the worker takes at a time: some run, the others wait.
        files = [await koo.stranger.upload(STORY + str(n).encode(), f"{n}.md") for n in range(40)]
        await koo.create("QA", files)
        async with asyncio.timeout(60):
            while not (await koo.tasks())["running_count"]:
                await asyncio.sleep(0.02)
        [batch] = await koo.stranger.data("/api/v1/batches")
        await koo.stranger.act(batch["id"], "pause")
        polled = await koo.tasks("?page_size=40")
        assert {one["status"] for one in polled["tasks"]} == {"RUNNING", "PENDING"}
        assert polled["running_count"] + polled["pending_count"] == polled["total"] == 40
    finally:
        held.set()
        mill.llm.gate = lambda request: None
    await koo.stranger.act(batch["id"], "resume")
    assert (await koo.settled(40))["success_count"] == 40


async def test_6_the_newest_come_first(koo: Koo) -> None:
    files = [await koo.stranger.upload(STORY, f"{n}.md") for n in range(3)]
    for one in files:
        await koo.create("TABLE_EXTRACTION", [one])
    found = (await koo.settled(3))["tasks"]
    assert [one["name"] for one in found] == ["2.md", "1.md", "0.md"]
    times = [int(one["create_time"]) for one in found]
    assert times == sorted(times, reverse=True)


async def test_7_counters_ignore_the_page_and_the_status_and_the_total_only_the_page(
    mill: Served, koo: Koo
) -> None:
    held = asyncio.Event()
    noise = await koo.stranger.upload(bytes(range(256)) * 20, "noise.bin")
    files = [await koo.stranger.upload(STORY + str(n).encode(), f"{n}.md") for n in range(2)]
    await koo.create("TABLE_EXTRACTION", [*files, noise])
    await koo.settled(3)
    mill.llm.gate = lambda request: held
    try:
        await koo.create("QA", files[:1])
        async with asyncio.timeout(60):
            while (await koo.tasks())["running_count"] != 1:
                await asyncio.sleep(0.02)
        paused = await koo.stranger.make(
            processor="qa_generation", collection=koo.repo, start_paused=True,
            requests=[{"custom_id": "x", "input": {"file_id": files[0], "filename": "x.md"}}],
        )  # fmt: skip
        body = await koo.tasks("?page_size=1&task_status=SUCCESS")
        counters = ("success_count", "fail_count", "running_count", "pending_count")
        assert [body[name] for name in counters] == [2, 1, 1, 1]
        assert (body["total"], len(body["tasks"])) == (2, 1)
        body = await koo.tasks("?task_type=QA")
        assert [body[name] for name in counters] == [0, 0, 1, 1]
        assert {one["status"] for one in body["tasks"]} == {
            "RUNNING",
            "PENDING",
        }  # a paused batch has no word of its own
    finally:
        held.set()
        mill.llm.gate = lambda request: None
    await koo.stranger.act(paused["id"], "cancel")
    body = await koo.settled(5)
    assert (body["total"], body["success_count"], body["fail_count"]) == (5, 3, 2)
    assert (await koo.tasks("?task_type=QA&task_status=ERROR"))["tasks"][0]["name"] == "x.md"


@pytest.mark.parametrize(
    ("text", "expected"), [(STORY, (2, 0)), (bytes(range(256)) * 20, (0, 2))], ids=["all succeed", "all fail"]
)
async def test_7_tasks_that_all_end_alike_are_counted_so(
    koo: Koo, text: bytes, expected: tuple[int, int]
) -> None:
    await koo.create("TABLE_EXTRACTION", [await koo.stranger.upload(text, f"{n}.md") for n in range(2)])
    body = await koo.settled(2)
    assert (body["success_count"], body["fail_count"]) == expected
    assert {one["process"] for one in body["tasks"]} == {1.0}


async def test_8_what_the_document_says_and_cannot_mean_is_left_out(koo: Koo) -> None:
    """`page_size` is the size and `page_num` the number, progress is `process`, `expires_at` is of kinds that are not
    among the types, and a bad query is a 400."""
    await koo.create("TABLE_EXTRACTION", [await koo.stranger.upload(STORY, "a.md")])
    body = await koo.settled(1, "?page_num=1&page_size=7")
    assert (body["page_size"], body["page_num"]) == (7, 1)
    assert "expires_at" not in body["tasks"][0]
    assert code_of(await koo.send("GET", "/tasks?task_type=FAQ_ALL"), 400) == "KOS.00000400"


async def test_9_a_create_counts_what_it_made_and_what_it_could_not(koo: Koo) -> None:
    files = [await koo.stranger.upload(STORY, f"{n}.md") for n in range(2)]
    unknown = ["not-a-file", "00000000-0000-7000-8000-000000000000", files[0].upper()]
    assert await koo.create("QA", [*files, *unknown]) == (5, 2)
    assert await koo.create("QA", unknown[:2]) == (2, 0)
    assert (await koo.settled(2))["total"] == 2
    detail = (await koo.send("GET", f"/task-detail/{(await koo.tasks())['tasks'][0]['id']}")).json()
    assert detail == {
        "total": 2,
        "task_detail": [{"id": files[0], "name": "0.md"}, {"id": files[1], "name": "1.md"}],
        "is_inherit_parser": False,
    }
    assert code_of(await koo.send("GET", "/task-detail/nothing.of-mine"), 404) == "KOS.00000404"
    for bad in (
        {"task_type": "QA"},
        {"task_type": "QA", "file_ids": []},
        {"task_type": "DOC", "file_ids": files},
        {"task_type": "QA", "file_ids": ["a b"]},
        {"task_type": "QA", "file_ids": ["a" * 65]},
        {"task_type": "QA", "file_ids": "a"},
        {"file_ids": files},
        [],
    ):
        assert code_of(await koo.send("POST", "/tasks", json=bad), 400) == "KOS.00000400"
    assert (await koo.tasks())["total"] == 2


async def test_9_failed_files_are_retried_in_place(koo: Koo) -> None:
    fails = await koo.stranger.upload(FAILS_ONCE + koo.repo.encode(), "fails.txt")
    story = await koo.stranger.upload(STORY, "story.md")
    await koo.create("QA", [fails, story])
    body = await koo.settled(2)
    assert {one["name"]: one["status"] for one in body["tasks"]} == {
        "fails.txt": "ERROR",
        "story.md": "SUCCESS",
    }
    retried = await koo.send(
        "PUT", "/files/retry", json={"file_ids": [fails, story, "unknown"], "parser": "inherit"}
    )
    assert (retried.status_code, retried.json()) == (200, {"total_count": 3, "retried_count": 1})
    again = await koo.settled(2)
    assert {one["id"] for one in again["tasks"]} == {one["id"] for one in body["tasks"]}
    assert again["success_count"] == 2
    retried = await koo.send("PUT", "/files/retry", json={"file_ids": [fails]})
    assert retried.json() == {"total_count": 1, "retried_count": 0}


async def test_10_questions_are_made_of_a_document_and_can_be_downloaded(koo: Koo) -> None:
    await koo.create("QA", [await koo.stranger.upload(STORY, "story.md")])
    [task] = (await koo.settled(1, "?task_type=QA&task_status=SUCCESS"))["tasks"]
    output = await koo.send("GET", f"/tasks/{task['id']}")
    assert output.headers["content-disposition"].startswith("attachment")
    pairs = output.json()["pairs"]
    assert pairs
    assert all(one["passage"] in STORY.decode() for one in pairs)


async def test_10_tables_are_extracted_and_deleted(koo: Koo) -> None:
    story, other = [await koo.stranger.upload(STORY, name) for name in ("story.md", "other.md")]
    await koo.create("TABLE_EXTRACTION", [story, other])
    before = {one["name"]: one["id"] for one in (await koo.settled(2))["tasks"]}
    tables = (await koo.send("GET", f"/tasks/{before['story.md']}")).json()
    assert tables["tables"][0]["rows"] == [["Part", "Count"], ["Stone", "2"]]
    assert (await koo.stranger.send("DELETE", f"/api/v1/files/{story}")).status_code == 204

    never = await koo.stranger.upload(STORY, "never.md")
    assert await koo.create("DELETE_TABLES", [story, never]) == (2, 1)
    [deletion] = (await koo.settled(3, ""))["tasks"][:1]
    assert (deletion["type"], deletion["name"], deletion["status"]) == (
        "DELETE_TABLES",
        "story.md",
        "SUCCESS",
    )
    assert (await koo.send("GET", f"/tasks/{deletion['id']}")).json() == {"extractions": 1}
    assert code_of(await koo.send("GET", f"/tasks/{before['story.md']}"), 404) == "KOS.00000404"
    batch_id, _, _ = before["story.md"].rpartition("-")
    shown = {one["custom_id"]: one for one in await koo.stranger.results(batch_id)}
    assert (shown[story]["status"], shown[story]["output"]) == ("success", None)
    assert shown[other]["output"]["table_count"] == 1


async def test_10_tables_of_another_tenant_and_another_knowledge_base_stay(mill: Served, koo: Koo) -> None:
    story = await koo.stranger.upload(STORY, "story.md")
    beside = replace(koo, repo=f"{koo.repo}-2")
    for one in (koo, beside):
        await one.create("TABLE_EXTRACTION", [story])
        await one.settled(1)
    foreign = replace(koo, stranger=await arrive(mill))
    assert await foreign.create("DELETE_TABLES", [story]) == (1, 0)
    assert await beside.create("DELETE_TABLES", [story]) == (1, 1)
    await beside.settled(2)
    [kept] = (await koo.tasks())["tasks"]
    assert (await koo.send("GET", f"/tasks/{kept['id']}")).json()["table_count"] == 1


async def test_10_a_retry_of_files_is_a_task_of_its_own(koo: Koo) -> None:
    fails = await koo.stranger.upload(FAILS_ONCE + koo.repo.encode(), "fails.txt")
    story = await koo.stranger.upload(STORY, "story.md")
    await koo.create("QA", [fails, story])
    await koo.settled(2)
    context = {"is_inherit_parser": True, "file_ids": [fails]}
    assert await koo.create("RETRY_FILES", [fails, story], task_context=context) == (2, 1)
    body = await koo.settled(3)
    newest = body["tasks"][0]
    assert (newest["type"], newest["name"], newest["status"]) == ("RETRY_FILES", "fails.txt", "SUCCESS")
    assert (await koo.tasks("?task_type=QA"))["total"] == 2
    assert [one["id"] for one in (await koo.tasks("?task_type=RETRY_FILES"))["tasks"]] == [newest["id"]]
    detail = (await koo.send("GET", f"/task-detail/{newest['id']}")).json()
    assert detail == {
        "total": 1,
        "task_detail": [{"id": fails, "name": "fails.txt"}],
        "is_inherit_parser": True,
    }
    assert await koo.create("RETRY_FILES", [fails]) == (1, 0)  # the newest of it has succeeded


async def test_10_a_task_without_an_output_tells_clients_not_to_come_back(koo: Koo) -> None:
    await koo.create("TABLE_EXTRACTION", [await koo.stranger.upload(bytes(range(256)) * 20, "noise.bin")])
    [task] = (await koo.settled(1))["tasks"]
    answer = await koo.send("GET", f"/tasks/{task['id']}")
    assert code_of(answer, 409) == "KOS.00000409"
    assert answer.headers["x-should-retry"] == "false"


async def test_11_tasks_of_all_batches_of_a_knowledge_base_are_one_list(koo: Koo) -> None:
    story = await koo.stranger.upload(STORY, "story.md")
    beside = replace(koo, repo=f"{koo.repo}-2")
    await koo.create("TABLE_EXTRACTION", [story])
    await beside.create("TABLE_EXTRACTION", [story])
    ours = await koo.stranger.make(
        processor="table_extraction", collection=koo.repo,
        requests=[{"custom_id": "x", "input": {"file_id": story, "filename": "ours.md"}}],
    )  # fmt: skip
    await koo.create("QA", [story])
    tasks = (await koo.settled(3))["tasks"]
    assert [(one["type"], one["name"]) for one in tasks] == [
        ("QA", "story.md"), ("TABLE_EXTRACTION", "ours.md"), ("TABLE_EXTRACTION", "story.md"),
    ]  # fmt: skip
    assert tasks[1]["id"] == f"{ours['id']}-0"
    assert len({one["id"].rpartition("-")[0] for one in tasks}) == 3


async def test_a_configuration_called_as_the_knowledge_base_is_used_for_it(koo: Koo) -> None:
    made = await koo.stranger.post(
        "/api/v1/configurations",
        {"name": koo.repo, "processor": "table_extraction", "config": {"min_rows": 1000}},
    )
    assert made.status_code == 201
    await koo.create("TABLE_EXTRACTION", [await koo.stranger.upload(STORY, "a.md")])
    [task] = (await koo.settled(1))["tasks"]
    assert (await koo.send("GET", f"/tasks/{task['id']}")).json()["table_count"] == 0
