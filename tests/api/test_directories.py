"""Directories: sets of files that are filled and emptied without the files being touched, unless somebody says so."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gristmill.db import Database
from gristmill.settings import Settings
from gristmill.store import directories
from service import Caller, Service, code_of, new_key, problems

DIRECTORIES = "/api/v1/directories"
FILES = "/api/v1/files"


def on_disk(root: Path) -> list[str]:
    return [one.name for one in root.rglob("*") if one.is_file()]


async def held(caller: Caller, directory_id: str) -> list[str]:
    """The ids of its files, newest first."""
    return [one["file"]["id"] for one in await caller.data(f"{DIRECTORIES}/{directory_id}/files")]


async def test_a_directory_is_made_shown_listed_and_deleted(caller: Caller) -> None:
    made = await caller.post(DIRECTORIES, {"name": "Invoices"})
    data = made.json()["data"]
    assert (made.status_code, data["name"], data["files"]) == (201, "Invoices", 0)
    assert made.headers["location"] == f"{DIRECTORIES}/{data['id']}"
    assert await caller.data(f"{DIRECTORIES}/{data['id']}") == data
    other = await caller.directory(name="Other")
    assert [one["id"] for one in await caller.data(DIRECTORIES)] == [other, data["id"]]
    assert await caller.data(f"{DIRECTORIES}?name=Invoices") == [data]
    assert (await caller.send("DELETE", f"{DIRECTORIES}/{data['id']}")).status_code == 204
    assert (await caller.get(f"{DIRECTORIES}/{data['id']}")).status_code == 404
    assert (await caller.send("DELETE", f"{DIRECTORIES}/{data['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, {"/name": "missing"}),
        ({"name": ""}, {"/name": "string_too_short"}),
        ({"name": "x" * 257}, {"/name": "string_too_long"}),
        ({"name": 7}, {"/name": "string_type"}),
        ({"name": "a", "files": []}, {"/files": "extra_forbidden"}),
        ({"name": "a\0"}, {"": "nul_character"}),
    ],
)
async def test_a_bad_directory_is_refused(caller: Caller, body: Any, found: dict[str, str]) -> None:
    assert problems(await caller.post(DIRECTORIES, body)) == found


async def test_files_are_added_listed_and_taken_out(caller: Caller) -> None:
    ids = [await caller.upload(b"x", f"{n}.txt") for n in range(3)]
    directory = await caller.directory(*ids)
    assert await held(caller, directory) == ids[::-1]
    [entry] = await caller.data(f"{DIRECTORIES}/{directory}/files?limit=1")
    assert entry["name"] == "2.txt"
    assert entry["file"] == await caller.data(f"{FILES}/{ids[2]}")
    assert (await caller.send("DELETE", f"{DIRECTORIES}/{directory}/files/{ids[1]}")).status_code == 204
    assert (await caller.send("DELETE", f"{DIRECTORIES}/{directory}/files/{ids[1]}")).status_code == 404
    assert await held(caller, directory) == [ids[2], ids[0]]
    assert (await caller.data(f"{FILES}/{ids[1]}"))["filename"] == "1.txt"


async def test_a_files_pages_follow_each_other_by_cursor_and_by_offset(caller: Caller) -> None:
    ids = [await caller.upload(b"x") for _ in range(5)]
    directory = await caller.directory(*ids)
    path, seen = f"{DIRECTORIES}/{directory}/files?limit=2", []
    while path:
        answer = (await caller.get(path)).json()
        seen += [one["file"]["id"] for one in answer["data"]]
        assert answer["pagination"]["total_records"] == 5
        cursor = answer["pagination"]["next_cursor"]
        path = f"{DIRECTORIES}/{directory}/files?limit=2&cursor={cursor}" if cursor else ""
    assert seen == ids[::-1]
    skipped = await caller.data(f"{DIRECTORIES}/{directory}/files?offset=3")
    assert [one["file"]["id"] for one in skipped] == ids[1::-1]


async def test_adding_twice_changes_nothing(caller: Caller) -> None:
    file_id = await caller.upload(b"x")
    directory = await caller.directory(file_id)
    again = await caller.post(f"{DIRECTORIES}/{directory}/files", {"file_ids": [file_id, file_id]})
    assert (again.status_code, again.json()["data"]["files"]) == (200, 1)


async def test_all_files_are_added_or_none(caller: Caller) -> None:
    good, directory = await caller.upload(b"x"), await caller.directory()
    unknown = str(uuid4())
    answer = await caller.post(f"{DIRECTORIES}/{directory}/files", {"file_ids": [unknown, good, unknown]})
    assert problems(answer) == {"/file_ids/0": "unknown_file", "/file_ids/2": "unknown_file"}
    for body, at in [
        ({}, "/file_ids"),
        ({"file_ids": []}, "/file_ids"),
        ({"file_ids": ["x"]}, "/file_ids/0"),
    ]:
        assert at in problems(await caller.post(f"{DIRECTORIES}/{directory}/files", body))
    too_many = {"file_ids": [good] * 1001}
    assert "/file_ids" in problems(await caller.post(f"{DIRECTORIES}/{directory}/files", too_many))
    assert await held(caller, directory) == []


async def test_a_file_is_uploaded_into_a_directory(caller: Caller) -> None:
    directory = await caller.directory()
    made = await caller.post(f"{DIRECTORIES}/{directory}/upload", files={"file": ("a.csv", b"a,b\n")})
    assert made.status_code == 201
    data = made.json()["data"]
    assert await caller.data(f"{FILES}/{data['id']}") == data
    assert await held(caller, directory) == [data["id"]]


async def test_an_upload_into_a_directory_that_goes_meanwhile_leaves_nothing(
    caller: Caller, settings: Settings
) -> None:
    directory = await caller.directory()

    async def slow():  # type: ignore[no-untyped-def]
        yield b"x"
        assert (await caller.send("DELETE", f"{DIRECTORIES}/{directory}")).status_code == 204
        yield b"y"

    answer = await caller.post(f"{DIRECTORIES}/{directory}/upload?filename=a", content=slow())
    assert code_of(answer, 404) == "not_found"
    assert on_disk(settings.data_dir) == []
    assert await caller.data(FILES) == []


async def test_deleting_a_directory_leaves_its_files(caller: Caller, settings: Settings) -> None:
    file_id = await caller.upload(b"x")
    for query in ("", "?files=false"):
        directory = await caller.directory(file_id)
        assert (await caller.send("DELETE", f"{DIRECTORIES}/{directory}{query}")).status_code == 204
    assert (await caller.data(f"{FILES}/{file_id}"))["id"] == file_id
    assert on_disk(settings.data_dir) == [file_id]


async def test_deleting_a_directory_with_its_files_deletes_them_everywhere(
    caller: Caller, settings: Settings
) -> None:
    both, kept = await caller.upload(b"x"), await caller.upload(b"y")
    doomed, other = await caller.directory(both), await caller.directory(both, kept)
    odd = await caller.send("DELETE", f"{DIRECTORIES}/{doomed}?files=1")
    assert problems(odd) == {"files": "unknown_value"}
    assert (await caller.send("DELETE", f"{DIRECTORIES}/{doomed}?files=true")).status_code == 204
    assert (await caller.get(f"{FILES}/{both}")).status_code == 404
    assert await held(caller, other) == [kept]
    assert (await caller.data(f"{DIRECTORIES}/{other}"))["files"] == 1
    assert on_disk(settings.data_dir) == [kept]


async def test_a_directory_has_a_limit(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "MAX_FILES", 2)
    ids = [await caller.upload(b"x") for _ in range(3)]
    directory = await caller.directory(*ids[:2])
    answer = await caller.post(f"{DIRECTORIES}/{directory}/files", {"file_ids": ids[2:]})
    assert code_of(answer, 409) == "directory_full"
    assert len(await held(caller, directory)) == 2


async def test_reading_needs_one_scope_and_changing_another(
    caller: Caller, service: Service, database: Database
) -> None:
    directory = await caller.directory()
    reader = await new_key(service, caller.tenant_id, ["files:read"])
    writer = await new_key(service, caller.tenant_id, ["files:write"])
    for method, path in [("GET", ""), ("GET", f"/{directory}"), ("GET", f"/{directory}/files")]:
        assert (await reader.send(method, f"{DIRECTORIES}{path}")).status_code == 200
        assert (await writer.send(method, f"{DIRECTORIES}{path}")).status_code == 403
    for method, path in [
        ("POST", ""),
        ("POST", f"/{directory}/files"),
        ("POST", f"/{directory}/upload"),
        ("POST", f"/{directory}/zip"),
        ("DELETE", f"/{directory}/files/{uuid4()}"),
        ("DELETE", f"/{directory}"),
    ]:
        assert (await reader.send(method, f"{DIRECTORIES}{path}")).status_code == 403
    assert (await writer.send("DELETE", f"{DIRECTORIES}/{directory}")).status_code == 204
