"""Batches from files and directories: what is checked when they are made, before a row exists."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from gristmill.db import Database
from gristmill.domain.news import News
from service import Caller, problems

BATCHES = "/api/v1/batches"
LINES = b'{"custom_id": "a", "input": {"text": "1"}}\n\n{"custom_id": "b", "input": {"text": "2"}}\n'


async def made(caller: Caller, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await caller.post(BATCHES, {"processor": "noop", "source": source, **more})
    assert answer.status_code == 202, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def refused(caller: Caller, source: Any, **more: Any) -> dict[str, str]:
    found = problems(await caller.post(BATCHES, {"processor": "noop", "source": source, **more}))
    assert (await caller.get(BATCHES)).json()["pagination"]["total_records"] == 0
    return found


async def test_a_batch_of_a_file_is_there_at_once_and_says_that_it_is_being_ingested(
    caller: Caller, database: Database
) -> None:
    file_id = await caller.upload(LINES, "requests.jsonl")
    batch = await made(caller, {"file_id": file_id}, name="From a file", start_paused=True)
    assert (batch["status"], batch["total_requests"], batch["pending_requests"]) == ("paused", 2, 2)
    assert batch["name"] == "From a file"
    batch = await made(caller, {"file_id": file_id})
    assert (batch["status"], batch["waiting_reason"]) == ("in_progress", "ingesting")
    assert caller.service.woken.is_set()
    assert await caller.data(f"{BATCHES}/{batch['id']}/results") == []
    assert (await caller.send("DELETE", f"{BATCHES}/{batch['id']}")).status_code == 409


async def test_of_a_batch_of_a_file_workers_hear_that_a_file_is_to_be_read(caller: Caller) -> None:
    heard: list[News] = []
    state = caller.service.app.state
    state.parts = replace(state.parts, wake=heard.append)
    await made(caller, {"file_id": await caller.upload(LINES, "requests.jsonl")})
    assert heard == [News.FILE]
    await caller.batch(1)
    assert heard == [News.FILE, News.ANY]


async def test_a_csv_file_has_as_many_requests_as_records(caller: Caller) -> None:
    text = 'text\n"a\nb"\n\nc\n'
    assert (await made(caller, {"file_id": await caller.upload(text.encode(), "a.csv")}))[
        "total_requests"
    ] == 2
    for encoding in ("utf-16", "cp1252"):
        file_id = await caller.upload("text\nMühle\nStein\n".encode(encoding), "a.csv")
        assert (await made(caller, {"file_id": file_id}))["total_requests"] == 2


async def test_the_format_is_known_by_the_name_or_has_to_be_said(caller: Caller) -> None:
    file_id = await caller.upload(LINES, "requests")
    assert await refused(caller, {"file_id": file_id}) == {"/source/format": "missing"}
    assert (await made(caller, {"file_id": file_id, "format": "jsonl"}))["total_requests"] == 2


async def test_lines_as_openai_has_them_go_with_the_processor_that_passes_bodies_on(caller: Caller) -> None:
    lines = b"".join(
        b'{"custom_id": "%s", "method": "POST", "url": "/v1/%s", "body": {"input": "x"}}\n' % (name, url)
        for name, url in ((b"a", b"embeddings"), (b"b", b"responses"))
    )
    source = {"file_id": await caller.upload(lines, "requests.jsonl"), "format": "openai"}
    assert await refused(caller, source) == {"/source/format": "only_for_completion"}
    given = {"processor": "completion", "config": {"path": "/embeddings"}}
    assert (await made(caller, source, **given))["total_requests"] == 2
    validated = await caller.post(f"{BATCHES}/validate", {"source": source, **given})
    [problem] = validated.json()["data"]["errors"]
    assert (problem["pointer"], problem["code"]) == ("/lines/2/url", "url_mismatch")


async def test_a_file_that_cannot_be_one_is_refused(caller: Caller, other: Caller) -> None:
    theirs = await other.upload(LINES, "requests.jsonl")
    for unknown in (theirs, str(uuid4())):
        assert await refused(caller, {"file_id": unknown}) == {"/source/file_id": "unknown_file"}
    empty = await caller.upload(b"\n \n", "a.jsonl")
    assert await refused(caller, {"file_id": empty}) == {"/source/file_id": "too_short"}
    binary = await caller.upload(b"\0\1\2", "a.jsonl")
    assert await refused(caller, {"file_id": binary}) == {"/source/file_id": "not_text"}
    only_header = await caller.upload(b"text\n", "a.csv")
    assert await refused(caller, {"file_id": only_header}) == {"/source/file_id": "too_short"}


async def test_a_csv_header_and_its_mapping_are_checked_before_a_row_exists(caller: Caller) -> None:
    file_id = await caller.upload(b"Name,Other\n1,2\n", "a.csv")
    at = "/source/column_mapping"
    assert await refused(caller, {"file_id": file_id}) == {
        f"{at}/Name": "unmapped_column",
        f"{at}/Other": "unmapped_column",
    }
    mapping = {"Name": "text", "Other": "nowhere", "Third": None}
    assert await refused(caller, {"file_id": file_id, "column_mapping": mapping}) == {
        f"{at}/Other": "unknown_field",
        f"{at}/Third": "unknown_column",
    }
    assert await refused(
        caller, {"file_id": file_id, "column_mapping": {"Name": "text", "Other": None}, "encoding": "no-such"}
    ) == {"/source/encoding": "unknown_encoding"}
    twice = await caller.upload(b"a,a\n1,2\n", "a.csv")
    assert await refused(caller, {"file_id": twice}) == {"/source/file_id": "duplicate_column"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param({}, {"/source": "file_or_directory"}, id="neither"),
        pytest.param(
            {"file_id": str(UUID(int=1)), "directory_id": str(UUID(int=1))},
            {"/source": "file_or_directory"},
            id="both",
        ),
        pytest.param(
            {"directory_id": str(UUID(int=1)), "format": "csv"}, {"/source": "only_for_files"}, id="format"
        ),
        pytest.param({"file_id": "x"}, {"/source/file_id": "uuid_parsing"}, id="no id"),
        pytest.param([], {"/source": "model_type"}, id="list"),
        pytest.param(
            {"file_id": str(UUID(int=1)), "delimiter": "x"},
            {"/source/delimiter": "literal_error"},
            id="delimiter",
        ),
    ],
)
async def test_a_source_has_one_form(caller: Caller, source: Any, found: dict[str, str]) -> None:
    assert await refused(caller, source) == found


async def test_options_of_csv_are_refused_for_json_lines(caller: Caller) -> None:
    file_id = await caller.upload(LINES, "requests.jsonl")
    source = {"file_id": file_id, "column_mapping": {}, "encoding": "utf-8", "delimiter": ","}
    assert await refused(caller, source) == {
        f"/source/{name}": "only_for_csv" for name in ("column_mapping", "encoding", "delimiter")
    }


async def test_requests_and_a_source_exclude_each_other(caller: Caller) -> None:
    file_id = await caller.upload(LINES, "requests.jsonl")
    requests = [{"custom_id": "a", "input": {"text": "1"}}]
    assert await refused(caller, {"file_id": file_id}, requests=requests) == {"/source": "requests_or_source"}


# --- directories ------------------------------------------------------------------------------------------------------


async def directory(caller: Caller, *names: str) -> tuple[str, dict[str, str]]:
    """Its id, and its files' ids by name."""
    answer = await caller.post("/api/v1/directories", {"name": "Documents"})
    directory_id = answer.json()["data"]["id"]
    files = {name: await caller.upload(name.encode(), name) for name in names}
    if files:
        added = await caller.post(
            f"/api/v1/directories/{directory_id}/files", {"file_ids": list(files.values())}
        )
        assert added.status_code == 200, added.text
    return directory_id, files


async def test_a_directory_becomes_a_request_for_each_file_by_name_and_the_set_stays_as_it_was(
    caller: Caller,
) -> None:
    directory_id, files = await directory(caller, "b.txt", "a.txt", "c.txt")
    batch = await made(caller, {"directory_id": directory_id}, processor="reader")
    assert (batch["total_requests"], batch["waiting_reason"] == "ingesting") == (3, False)
    await caller.send("DELETE", f"/api/v1/directories/{directory_id}")
    shown = await caller.data(f"{BATCHES}/{batch['id']}/results")
    assert [one["custom_id"] for one in shown] == [files[name] for name in sorted(files)]
    detail = await caller.data(f"{BATCHES}/{batch['id']}/results/{files['a.txt']}")
    assert detail["input"] == {"file_id": files["a.txt"]}


async def test_a_directory_that_cannot_be_one_is_refused(caller: Caller, other: Caller) -> None:
    at = "/source/directory_id"
    theirs, _ = await directory(other, "a.txt")
    for unknown in (theirs, str(uuid4())):
        assert await refused(caller, {"directory_id": unknown}, processor="reader") == {
            at: "unknown_directory"
        }
    empty, _ = await directory(caller)
    assert await refused(caller, {"directory_id": empty}, processor="reader") == {at: "empty_directory"}
    full, _ = await directory(caller, "a.txt")
    assert await refused(caller, {"directory_id": full}) == {at: "takes_no_files"}


# --- validate ---------------------------------------------------------------------------------------------------------


async def validated(caller: Caller, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await caller.post(f"{BATCHES}/validate", {"processor": "noop", "source": source, **more})
    assert answer.status_code == 200, answer.text
    assert (await caller.get(BATCHES)).json()["pagination"]["total_records"] == 0
    data: dict[str, Any] = answer.json()["data"]
    return data


def places(found: dict[str, Any]) -> dict[str, str]:
    return {one["pointer"]: one["code"] for one in found["errors"]}


async def test_validate_reads_a_file_to_its_end(caller: Caller) -> None:
    found = await validated(caller, {"file_id": await caller.upload(LINES, "a.jsonl")})
    assert found == {
        "valid": True,
        "total_requests": 2,
        "invalid_requests": 0,
        "input_bytes": 24,
        "estimate": {"input_tokens": 6, "method": "characters / 4"},
        "errors": [],
    }
    bad = LINES + b'{"custom_id": "c", "input": {}}\nnonsense\n'
    source = {"file_id": await caller.upload(bad, "a.jsonl")}
    found = await validated(caller, source)
    assert (found["valid"], found["total_requests"], found["invalid_requests"]) == (False, 4, 2)
    assert places(found) == {"/lines/4/input/text": "missing", "/lines/5": "invalid_json"}
    assert (await validated(caller, source, on_invalid="fail_items"))["valid"] is True


async def test_validate_finds_a_custom_id_that_comes_again_anywhere_in_a_file(caller: Caller) -> None:
    lines = b"".join(b'{"custom_id": "%d", "input": {"text": ""}}\n' % (n % 1500) for n in range(1501))
    source = {"file_id": await caller.upload(lines, "a.jsonl")}
    for more in ({}, {"on_invalid": "fail_items"}):
        found = await validated(caller, source, **more)
        assert (found["valid"], places(found)) == (False, {"/lines/1501/custom_id": "duplicate_custom_id"})


async def test_validate_counts_the_files_of_a_directory(caller: Caller) -> None:
    directory_id, _ = await directory(caller, "a.txt", "b.txt")
    found = await validated(caller, {"directory_id": directory_id}, processor="reader")
    assert (found["valid"], found["total_requests"], found["input_bytes"]) == (True, 2, None)


async def test_validate_says_what_is_wrong_with_a_source_itself(caller: Caller) -> None:
    found = await validated(caller, {"file_id": str(uuid4())})
    assert (found["valid"], places(found)) == (False, {"/source/file_id": "unknown_file"})


async def test_tasks_hold_a_batch_of_a_file_once_its_requests_are_there(caller: Caller) -> None:
    batch = await made(caller, {"file_id": await caller.upload(LINES, "a.jsonl")})
    await caller.batch(1)
    answer = (await caller.get("/api/v1/tasks")).json()
    assert (len(answer["data"]), answer["summary"]["total"], answer["summary"]["pending"]) == (1, 1, 1)
    assert (await caller.get(f"/api/v1/tasks/{batch['id']}-0")).status_code == 404
