"""The ten behaviours of seed 000, in their order, against a whole service that works."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from documents.producers import PRODUCERS
from fakes.receiver import Receiver, hold, status
from fakes.s3 import Bucket
from served import Served
from service import new_key
from stranger import Stranger, arrive, until

from .conftest import Nexent, chunks

STORY = "# The mill\n\n" + "\n\n".join(
    f"The old mill number {n} grinds the grain of the whole village to flour." for n in range(40)
)
PARTS = ("process", "forward")


@pytest.fixture
def folder(mill: Served) -> Path:
    """A part of the opened folder for one test, with a story and a file that cannot be read."""
    made = mill.folder / uuid4().hex
    made.mkdir()
    (made / "story.md").write_text(STORY)
    (made / "noise.bin").write_bytes(bytes(range(256)) * 20)
    (made / "empty.txt").write_text(" \n ")
    return made


def details(answer: Any) -> list[dict[str, Any]]:
    """Of an HTTPValidationError, whose shape is checked on the way."""
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert list(body) == ["detail"]
    assert all(sorted(one) == ["loc", "msg", "type"] for one in body["detail"])
    found: list[dict[str, Any]] = body["detail"]
    return found


async def test_1_a_batch_is_taken_at_once_and_each_file_goes_its_own_way(
    nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    held = asyncio.Event()
    sink.behave(hold(held), status(200))
    for name in ("a.md", "b.md"):
        (folder / name).write_text("A text about one thing, and nothing else.")
    first, second = [str(folder / name) for name in ("a.md", "b.md")]
    ids = await nexent.submit(nexent.source(first), nexent.source(second))
    assert len(set(ids)) == 2
    await sink.until(2)
    async with asyncio.timeout(30):
        while sorted((await nexent.states()).values()) != ["COMPLETED", "FORWARDING"]:
            await asyncio.sleep(0.02)
    held.set()
    assert [one["status"] for one in await nexent.ended(*ids)] == ["SUCCESS", "SUCCESS"]
    sent = chunks(sink.received)
    assert {one["metadata"]["path_or_url"] for one in sent} == {first, second}
    assert sent[0]["metadata"] | {"path_or_url": "", "original_filename": ""} == {
        "index_name": nexent.index, "embedding_model_id": "3", "tenant_id": "their-tenant", "source_type": "local",
        "original_filename": "", "path_or_url": "", "page": "1",
    }  # fmt: skip
    assert {one.headers["authorization"] for one in sink.received} == {"Bearer of-the-sink"}


async def test_1_a_body_without_a_list_of_sources_is_a_422_of_fastapi(nexent: Nexent) -> None:
    [missing] = details(await nexent.send("POST", "/batch", json={}))
    assert missing == {"loc": ["body", "sources"], "msg": "Field required", "type": "missing"}
    [wrong] = details(await nexent.send("POST", "/batch", json={"sources": "a"}))
    assert (wrong["loc"], wrong["type"]) == (["body", "sources"], "list_type")
    [inner] = details(await nexent.send("POST", "/batch", json={"sources": [nexent.source("a"), 7]}))
    assert (inner["loc"], inner["type"]) == (["body", "sources", 1], "dict_type")
    for bad in (b"{", b"[]", b"\xff"):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {nexent.stranger.key}"}
        assert details(
            await nexent.stranger.service.client.post("/tasks/batch", content=bad, headers=headers)
        )
    assert (await nexent.send("GET", "")).json() == {"tasks": []}


async def test_2_the_answer_is_a_201_with_the_ids(nexent: Nexent, folder: Path) -> None:
    answer = await nexent.send("POST", "/batch", json={"sources": [nexent.source(str(folder / "story.md"))]})
    assert answer.status_code == 201
    assert list(answer.json()) == ["task_ids"]
    empty = await nexent.send("POST", "/batch", json={"sources": []})
    assert (empty.status_code, empty.json()) == (201, {"task_ids": []})


async def test_3_bad_sources_have_their_place_and_are_told(nexent: Nexent, folder: Path) -> None:
    good = nexent.source(str(folder / "story.md"))
    sources = [
        good | {"source": ""},
        good,
        good | {"index_name": None},
        good | {"source_type": "ftp"},
        good | {"chunking_strategy": "clever"},
        good | {"source": "ftp://nowhere", "source_type": "url"},
        {name: value for name, value in good.items() if name != "source"},
        good | {"source": ["a"]},
        good | {"original_filename": "x" * 300},
        good | {"source": "x" * 3000},
        good,
    ]
    answer = await nexent.send("POST", "/batch", json={"sources": sources})
    assert answer.status_code == 201
    ids, rejected = answer.json()["task_ids"], answer.json()["rejected"]
    assert len(ids) == len(set(ids)) == len(sources)
    assert [one["index"] for one in rejected] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    fields = ["source", "index_name", "source_type", "chunking_strategy", "source", "source", "source"]
    fields += ["original_filename", "source"]
    for one, field in zip(rejected, fields, strict=True):
        assert one["error"].startswith(f"{field}: "), one
    found = await nexent.ended(*ids)
    assert [n for n, one in enumerate(found) if one["status"] == "SUCCESS"] == [1, 10]
    for one in rejected:
        assert found[one["index"]]["error"].endswith(one["error"].partition(": ")[2])


async def test_4_an_index_is_a_bare_list_of_rows(nexent: Nexent, folder: Path, sink: Receiver) -> None:
    path = str(folder / "story.md")
    [task_id] = await nexent.submit(nexent.source(path))
    await nexent.ended(task_id)
    rows = await nexent.rows()
    assert [row["task_name"] for row in rows] == ["process", "forward"]
    for row in rows:
        assert sorted(row) == [
            "created_at", "error", "id", "index_name", "original_filename", "path_or_url", "processed_chunks",
            "source_type", "status", "task_name", "total_chunks", "updated_at",
        ]  # fmt: skip
        assert (row["index_name"], row["path_or_url"], row["original_filename"]) == (
            nexent.index,
            path,
            "story.md",
        )
        assert (row["source_type"], row["status"], row["error"]) == ("local", "SUCCESS", None)
        assert isinstance(row["created_at"], float)
        assert row["updated_at"] >= row["created_at"] > 1.7e9
        assert row["processed_chunks"] == row["total_chunks"] == len(chunks(sink.received))
    other = replace(nexent, index="another")
    assert await other.rows() == []
    again = await nexent.submit(nexent.source(path))
    await nexent.ended(*again)
    assert len(await nexent.rows()) == 4
    assert await nexent.states() == {path: "COMPLETED"}


async def test_5_two_statuses_of_celery_make_one_state(nexent: Nexent) -> None:
    told = {}
    for process, forward in itertools.product(
        ("", "PENDING", "STARTED", "SUCCESS", "FAILURE", "RETRY"), repeat=2
    ):
        body = {"process_state": process or None, "forward_state": forward}
        answer = await nexent.send("POST", "/convert_state", json=body)
        assert answer.status_code == 200
        told[process, forward] = answer.json()["state"]
    for (process, forward), state in told.items():
        if process == "FAILURE":
            assert state == "PROCESS_FAILED"
        elif forward == "FAILURE":
            assert state == "FORWARD_FAILED"
        elif "RETRY" in (process, forward):
            assert state == "UNKNOWN"
    expected = {
        ("", ""): "WAIT_FOR_PROCESSING", ("PENDING", ""): "WAIT_FOR_PROCESSING", ("STARTED", ""): "PROCESSING",
        ("SUCCESS", ""): "WAIT_FOR_FORWARDING", ("SUCCESS", "PENDING"): "WAIT_FOR_FORWARDING",
        ("SUCCESS", "STARTED"): "FORWARDING", ("SUCCESS", "SUCCESS"): "COMPLETED", ("", "STARTED"): "FORWARDING",
    }  # fmt: skip
    assert {pair: told[pair] for pair in expected} == expected
    [wrong] = details(await nexent.send("POST", "/convert_state", json={"process_state": 7}))
    assert wrong["loc"] == ["body", "process_state"]


async def test_5_a_file_goes_through_the_states_in_their_order(
    nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    fetched, sunk = asyncio.Event(), asyncio.Event()
    async with Receiver() as source:
        source.behave(hold(fetched, status(200, STORY.encode(), Content_Type="text/plain")))
        sink.behave(hold(sunk, status(200)))
        await nexent.submit(nexent.source(source.url, "url"))
        await source.until(1)
        assert await nexent.states() == {source.url: "PROCESSING"}
        fetched.set()
        await sink.until(1)
        assert await nexent.states() == {source.url: "FORWARDING"}
        sunk.set()
        await nexent.until(**{source.url.replace(".", "__"): "COMPLETED"})


async def test_5_a_batch_that_is_paused_elsewhere_shows_no_word_of_its_own(
    nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    held = asyncio.Event()
    sink.behave(hold(held, status(500)), status(200))
    path = str(folder / "story.md")
    [task_id] = await nexent.submit(nexent.source(path))
    await sink.until(1)
    await nexent.stranger.act(task_id.rpartition("-")[0], "pause")
    held.set()
    await nexent.until(**{path.replace(".", "__"): "WAIT_FOR_FORWARDING"})
    assert (await nexent.details(task_id))["status"] == "PENDING"
    await nexent.stranger.act(task_id.rpartition("-")[0], "resume")
    assert [one["status"] for one in await nexent.ended(task_id)] == ["SUCCESS"]


async def test_6_all_tasks_are_listed_with_nine_keys(nexent: Nexent, folder: Path) -> None:
    other = replace(nexent, index=f"{nexent.index}-2")
    path = str(folder / "story.md")
    ids = await nexent.submit(nexent.source(path), other.source(path))
    await nexent.ended(*ids)
    body = (await nexent.send("GET", "")).json()
    assert list(body) == ["tasks"]
    assert {row["index_name"] for row in body["tasks"]} == {nexent.index, other.index}
    for row in body["tasks"]:
        assert sorted(row) == [
            "created_at", "error", "id", "index_name", "original_filename", "path_or_url", "status", "task_name",
            "updated_at",
        ]  # fmt: skip


async def test_6_details_tell_what_came_of_a_task_and_unknown_ones_are_not_found(
    mill: Served, nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    [task_id] = await nexent.submit(nexent.source(str(folder / "story.md")))
    [found] = await nexent.ended(task_id)
    count = len(chunks(sink.received))
    assert (found["id"], found["task_name"], found["chunks_count"]) == (task_id, "forward", count)
    assert found["es_result"] == {"success": True, "total_indexed": count, "total_submitted": count}
    assert found["processing_time"] >= 0
    assert found["storage_time"] >= 0
    process = await nexent.details((await nexent.rows())[0]["id"])
    assert (process["task_name"], process["status"]) == ("process", "SUCCESS")
    elsewhere = replace(nexent, stranger=await arrive(mill))
    assert (await elsewhere.send("GET", "")).json() == {"tasks": []}
    assert await elsewhere.rows() == []
    ours = await nexent.stranger.scripted({})
    for one, unknown in (
        (elsewhere, task_id),
        (nexent, "nonsense"),
        (nexent, f"{task_id}0"),
        (nexent, f"{ours['id']}-0"),
    ):
        answer = await one.send("GET", f"/{unknown}/details")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Task not found"})


async def test_7_a_single_file_is_a_201_with_its_id(nexent: Nexent, folder: Path) -> None:
    answer = await nexent.send("POST", "", json=nexent.source(str(folder / "story.md")))
    assert answer.status_code == 201
    assert list(answer.json()) == ["task_id"]
    assert [one["status"] for one in await nexent.ended(answer.json()["task_id"])] == ["SUCCESS"]
    [missing] = details(await nexent.send("POST", "", json={"source_type": "local", "index_name": "a"}))
    assert missing["loc"] == ["body", "source"]
    [refused] = details(await nexent.send("POST", "", json=nexent.source("ftp://nowhere", "url")))
    assert (refused["loc"], refused["type"]) == (["body", "source"], "address_refused")


async def test_7_a_file_is_processed_while_the_caller_waits(nexent: Nexent, folder: Path) -> None:
    form = {"source": str(folder / "story.md"), "source_type": "local", "chunking_strategy": "by_title"}
    body = (await nexent.send("POST", "/process", data=form)).json()
    assert sorted(body) == [
        "chunks", "chunks_count", "processing_time", "source", "success", "task_id", "text", "text_length",
    ]  # fmt: skip
    assert (body["success"], body["source"]) == (True, form["source"])
    assert body["chunks_count"] == len(body["chunks"]) > 1
    assert body["text"] == "\n\n".join(one["content"] for one in body["chunks"])
    assert body["text_length"] == len(body["text"])
    assert "mill number 39" in body["text"]
    assert sorted(body["chunks"][0]) == ["content", "filename", "language", "metadata"]
    bad = await nexent.send("POST", "/process", data=form | {"source": str(folder / "noise.bin")})
    assert bad.status_code == 422
    assert bad.json()["detail"].startswith("Error processing file: This kind of file cannot be read.")
    for wrong, name in (
        ({"source": ""}, "source"),
        ({"source_type": "ftp"}, "source_type"),
        ({"timeout": "x"}, "timeout"),
    ):
        assert [one["loc"] for one in details(await nexent.send("POST", "/process", data=form | wrong))] == [
            ["body", name]
        ]
    assert (await nexent.send("POST", "/process", json=form)).status_code == 415


async def test_7_a_file_that_is_not_processed_in_time_is_given_up(nexent: Nexent) -> None:
    never = asyncio.Event()
    async with Receiver() as source:
        source.behave(hold(never))
        form = {"source": source.url, "source_type": "url", "timeout": "1"}
        answer = await nexent.send("POST", "/process", data=form)
        assert answer.status_code == 504
        assert answer.json()["detail"].startswith("Error processing file: ")
        never.set()
    tasks = (await nexent.stranger.get("/api/v1/batches")).json()["data"]
    ended = await nexent.stranger.ended(tasks[0]["id"])
    assert ended["status"] in ("cancelled", "completed")


async def test_7_an_uploaded_file_is_read_and_nothing_of_it_stays(nexent: Nexent) -> None:
    files = {"file": ("story.md", STORY.encode(), "application/octet-stream")}
    answer = await nexent.send(
        "POST", "/process_text_file", files=files, data={"chunking_strategy": "basic", "timeout": 60}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert sorted(body) == [
        "chunking_strategy", "chunks", "chunks_count", "filename", "processing_time", "success", "task_id", "text",
        "text_length",
    ]  # fmt: skip
    assert (body["filename"], body["chunking_strategy"], body["task_id"]) == ("story.md", "basic", None)
    assert "mill number 39" in body["text"]
    assert all(isinstance(one, str) for one in body["chunks"])
    assert (await nexent.stranger.get("/api/v1/files")).json()["data"] == []
    assert (await nexent.stranger.get("/api/v1/batches")).json()["data"] == []
    missing = await nexent.send("POST", "/process_text_file", files={"other": ("a", b"b")})
    assert details(missing)
    noise = {"file": ("noise.bin", bytes(range(256)) * 20, "application/octet-stream")}
    assert (await nexent.send("POST", "/process_text_file", files=noise)).status_code == 422
    assert (await nexent.stranger.get("/api/v1/files")).json()["data"] == []


async def test_8_forwarding_is_tried_again_without_processing_again(nexent: Nexent, sink: Receiver) -> None:
    async with Receiver() as source:
        source.behave(status(200, STORY.encode(), Content_Type="text/plain"))
        sink.behave(status(500), status(503), status(200))
        [task_id] = await nexent.submit(nexent.source(source.url, "url"))
        [found] = await nexent.ended(task_id)
        assert found["status"] == "SUCCESS"
        assert len(source.received) == 1
    assert len(sink.received) >= 3
    assert sink.received[0].body == sink.received[1].body == sink.received[2].body


async def test_8_chunks_are_counted_while_they_are_forwarded(
    nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    few = replace(nexent, index=f"{nexent.index}-few")
    await few.use(sink, few.index, chunks_per_post=1)
    held = asyncio.Event()
    sink.behave(status(200), hold(held), status(200))
    await few.submit(few.source(str(folder / "story.md")))
    await sink.until(2)
    [process, forward] = await few.rows()
    assert (process["status"], forward["status"]) == ("SUCCESS", "STARTED")
    assert forward["processed_chunks"] == 1 < forward["total_chunks"]
    held.set()
    await few.until(**{str(folder / "story.md").replace(".", "__"): "COMPLETED"})


async def test_8_each_stage_has_its_own_failure_with_a_code_and_a_suggestion(
    nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    sink.behave(status(400))
    story, empty = str(folder / "story.md"), str(folder / "empty.txt")
    ids = await nexent.submit(nexent.source(story), nexent.source(empty))
    forwarded, processed = await nexent.ended(*ids)
    assert await nexent.states() == {story: "FORWARD_FAILED", empty: "PROCESS_FAILED"}
    assert (processed["error_code"], processed["status"]) == ("no_valid_chunks", "FAILURE")
    assert processed["suggestion"]
    assert forwarded["error_code"].startswith("sink_")
    assert "sink" in forwarded["error"]
    [process, forward] = [row for row in await nexent.rows() if row["path_or_url"] == story]
    assert (process["status"], process["error"]) == ("SUCCESS", None)
    assert (forward["status"], forward["error"]) == ("FAILURE", forwarded["error"])


async def test_8_chunks_can_go_to_the_index_service_of_nexent_as_it_takes_them(
    bare: Nexent, sink: Receiver, folder: Path
) -> None:
    config = {
        "sink": {"url": sink.url.replace("/hook", "/indices/:index_name/documents"), "form": "documents"}
    }
    made = await bare.stranger.post(
        "/api/v1/configurations", {"name": "nexent", "processor": "pipeline", "config": config}
    )
    assert made.status_code == 201, made.text
    path = str(folder / "story.md")
    odd = replace(bare, index="of a/b?")
    up = replace(bare, index="..")
    ids = await bare.submit(bare.source(path), odd.source(path), up.source(path))
    found = await bare.ended(*ids)
    assert [one.get("error_code") for one in found] == [None, None, "sink_address_incomplete"]
    paths = {one.path for one in sink.received}
    assert paths == {f"/indices/{bare.index}/documents", "/indices/of%20a%2Fb%3F/documents"}
    for post in sink.received:
        documents = orjson.loads(post.body)
        assert isinstance(documents, list)
        for one in documents:
            assert (one["path_or_url"], one["source_type"], one["filename"]) == (path, "local", "story.md")
            assert one["file_size"] == len(one["content"].encode())
            assert one["title"]


async def test_8_without_a_sink_nothing_is_taken_and_the_answer_says_what_to_do(
    bare: Nexent, folder: Path
) -> None:
    answer = await bare.send("POST", "/batch", json={"sources": [bare.source(str(folder / "story.md"))]})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert "configuration of the processor pipeline" in answer.json()["detail"]
    assert await bare.rows() == []


async def test_9_every_format_is_read_and_empty_ones_have_no_valid_chunks(
    nexent: Nexent, sink: Receiver, folder: Path
) -> None:
    unreadable = {"encrypted.pdf": "encrypted", "scanned.pdf": "no_valid_chunks"}
    for name, produce in PRODUCERS.items():
        produce(folder / name)
    ids = await nexent.submit(*[nexent.source(str(folder / name)) for name in PRODUCERS])
    for name, found in zip(PRODUCERS, await nexent.ended(*ids), strict=True):
        assert found.get("error_code") == unreadable.get(name), (name, found)
    sent = chunks(sink.received)
    assert {one["filename"] for one in sent} == PRODUCERS.keys() - unreadable.keys()
    for chunk in sent:
        assert {"content", "filename", "metadata", "language"} <= chunk.keys()
        assert 0 < len(chunk["content"]) <= 1536
    [refused] = await nexent.ended(*await nexent.submit(nexent.source(str(folder / "empty.txt"))))
    assert refused["error_code"] == "no_valid_chunks"


async def test_9_objects_of_minio_are_read_by_their_key_or_their_address(
    nexent: Nexent, objects: Bucket
) -> None:
    objects.put("nexent/a/story.md", STORY.encode())
    objects.put("outside.md", b"not for callers, whoever they are")
    paths = [
        "a/story.md",
        f"s3://{objects.name}/nexent/a/story.md",
        f"s3://{objects.name}/outside.md",
        "a/none.md",
    ]
    ids = await nexent.submit(*[nexent.source(path, "minio") for path in paths])
    found = await nexent.ended(*ids)
    assert [one.get("error_code") for one in found] == [None, None, "source_refused", "source_not_found"]


async def test_9_the_strategy_is_that_of_each_source(nexent: Nexent, sink: Receiver, folder: Path) -> None:
    sections = "\n\n".join(f"# Section {n}\n\nIt says something about {n}." for n in range(5))
    counts = {}
    for strategy in ("basic", "by_title", "none"):
        (folder / f"{strategy}.md").write_text(sections)
    ids = await nexent.submit(
        *[
            nexent.source(str(folder / f"{one}.md"), chunking_strategy=one)
            for one in ("basic", "by_title", "none")
        ]
    )
    for found in await nexent.ended(*ids):
        counts[found["original_filename"]] = found["chunks_count"]
    assert counts == {"basic.md": 1, "by_title.md": 5, "none.md": 1}


async def test_10_bad_files_never_disturb_the_others(nexent: Nexent, folder: Path) -> None:
    names = ["story.md", "noise.bin", "gone.md", "empty.txt", "../outside.md", "story.md"]
    ids = await nexent.submit(*[nexent.source(f"{folder.name}/{name}") for name in names])
    found = await nexent.ended(*ids)
    assert [one["status"] for one in found] == ["SUCCESS", *["FAILURE"] * 4, "SUCCESS"]
    assert len({one["error"] for one in found[1:5]}) >= 3
    all_bad = await nexent.submit(*[nexent.source(f"{folder.name}/gone{n}.md") for n in range(3)])
    assert {one["status"] for one in await nexent.ended(*all_bad)} == {"FAILURE"}


async def test_more_sources_than_a_batch_takes_are_several_batches_behind_one_answer(
    nexent: Nexent, folder: Path
) -> None:
    sources = [nexent.source(f"gone/{n}.md") for n in range(2100)]
    ids = await nexent.submit(*sources)
    assert len({one.rpartition("-")[0] for one in ids}) == 3

    async def all_failed() -> dict[str, Any] | None:
        rows = await nexent.rows()
        assert len(rows) == 2100
        return {"rows": rows} if {row["status"] for row in rows} == {"FAILURE"} else None

    rows = (await until(all_failed, 120))["rows"]
    by_id = {row["id"].removesuffix(".process"): row["path_or_url"] for row in rows}
    assert [by_id[one] for one in ids] == [one["source"] for one in sources]


async def test_a_key_is_required_everywhere_and_refusals_have_a_detail(mill: Served, nexent: Nexent) -> None:
    for method, path in (
        ("GET", "/tasks"),
        ("POST", "/tasks/batch"),
        ("GET", f"/tasks/indices/{nexent.index}"),
    ):
        answer = await mill.client.request(method, path)
        assert answer.status_code == 401
        assert list(answer.json()) == ["detail"]
    routes = {
        "batches:read": [("POST", ""), ("POST", "/batch"), ("POST", "/process"), ("POST", "/process_text_file"),
                         ("POST", "/filter_important_image"), ("GET", "/load_image?url=a")],
        "batches:write": [("GET", ""), ("GET", "/indices/a"), ("GET", "/a/details"), ("POST", "/convert_state"),
                          ("POST", "/process_text_file")],
    }  # fmt: skip
    for scope, closed in routes.items():
        key = await new_key(nexent.stranger.service, nexent.stranger.tenant_id, [scope])
        limited = replace(nexent, stranger=Stranger(key.service, key.tenant_id, key.key))
        for method, path in closed:
            answer = await limited.send(method, path)
            assert (answer.status_code, list(answer.json())) == (403, ["detail"]), (scope, path)
    unknown = await nexent.send("GET", "/no/such/route")
    assert (unknown.status_code, list(unknown.json())) == (404, ["detail"])
