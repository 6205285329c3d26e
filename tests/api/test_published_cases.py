"""Inputs that others have gathered (tests/data): texts that are no JSON or hardly, and strings that broke programs before.

`make fuzz` sends each of them everywhere; without it, each goes where it matters most.
"""

import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from documented import LONG, Operation, check, operations
from gristmill.db import Database
from service import Caller, Service, code_of

DATA = Path(__file__).parent.parent / "data"
JSON = {"content-type": "application/json"}
NAUGHTY: list[str] = orjson.loads((DATA / "naughty_strings/blns.json").read_bytes())
HEAD = b'{"processor":"anything","requests":[{"custom_id":"a","input":'


def cases(kind: str) -> dict[str, bytes]:
    """Name → text of those that have to be accepted (`y`), refused (`n`), or either (`i`)."""
    with zipfile.ZipFile(DATA / "json_test_suite/test_parsing.zip") as suite:
        return {name: suite.read(name) for name in suite.namelist() if name.startswith(f"{kind}_")}


@pytest.fixture(autouse=True)
def _nothing_goes_wrong_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR or one.exc_info] == []


@pytest.fixture
def taking_json(service: Service) -> list[Operation]:
    """But for two that look at something before they read a body: whether the directory is there, and whether the key is the
    operator's and limits are of that kind."""
    taking = [one for one in operations(service.app) if one.takes_json]
    return [one for one in taking if not one.path.endswith("/upload") and "/limits/" not in one.path]


def somewhere(index: int, among: Sequence[Operation]) -> list[Operation]:
    """Every one in the long form, else one after the other in turn."""
    return list(among) if LONG else [among[index % len(among)]]


def path_of(operation: Operation) -> str:
    return operation.path.format(
        **dict.fromkeys(operation.path_parameters, "550e8400-e29b-41d4-a716-446655440000")
    )


async def stored(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(
            "SELECT (SELECT count(*) FROM batch) + (SELECT count(*) FROM agent)"
        )
    return count


async def test_what_is_no_json_is_refused_as_a_body(
    caller: Caller, database: Database, taking_json: list[Operation]
) -> None:
    refused = cases("n")
    assert len(refused) == 188
    for index, (name, text) in enumerate(refused.items()):
        for operation in somewhere(index, taking_json):
            answer = await caller.send(operation.method, path_of(operation), content=text, headers=JSON)
            if text or operation.words["requestBody"]["required"]:  # else none at all is none
                # 413: some actions take but a few bytes
                assert answer.status_code in (400, 413), f"{name} at {operation.path}"
            check(answer, taking_json)
    assert await stored(database) == 0


async def test_what_is_no_json_is_refused_within_a_body(caller: Caller, database: Database) -> None:
    for name, text in cases("n").items():
        for path in ("batches", "batches/validate"):
            answer = await caller.send("POST", f"/api/v1/{path}", content=HEAD + text + b"}]}", headers=JSON)
            assert (answer.status_code, name) == (400, name)
    assert await stored(database) == 0


async def test_what_is_no_json_is_refused_as_a_line_of_a_file(caller: Caller, database: Database) -> None:
    """Alone and as the input of a request. What holds a line break is several lines, and none of them is a request."""
    for name, text in cases("n").items():
        for line in (text, b'{"custom_id":"a","input":%s}' % text):
            made = await caller.post("/api/v1/files", files={"file": ("a.jsonl", line)})
            if made.status_code == 400:
                assert (code_of(made, 400), line) == ("empty_file", b"")
                continue
            source = {"source": {"file_id": made.json()["data"]["id"]}, "processor": "anything"}
            said = await caller.post("/api/v1/batches/validate", source | {"on_invalid": "fail_items"})
            if said.status_code == 200:  # 400: the file as a whole is no text
                found = said.json()["data"]
                assert (found["invalid_requests"], name) == (found["total_requests"], name)
            assert not (await caller.post("/api/v1/batches/validate", source)).json()["data"]["valid"], name
    assert await stored(database) == 0


async def test_what_is_json_is_taken_and_kept(caller: Caller) -> None:
    """All but what the input rules refuse by name."""
    accepted, refused = cases("y"), {}
    assert len(accepted) == 95
    for name, text in accepted.items():
        made = await caller.send("POST", "/api/v1/batches", content=HEAD + text + b"}]}", headers=JSON)
        if made.status_code == 400:
            refused[name] = code_of(made, 400)
            continue
        assert (made.status_code, name) == (202, name)
        kept = await caller.data(f"/api/v1/batches/{made.json()['data']['id']}/results/a")
        assert (kept["input"], name) == (json.loads(text), name)
    assert refused == REFUSED_BY_NAME


REFUSED_BY_NAME = {
    "y_object_escaped_null_in_key.json": "nul_character",
    "y_string_null_escape.json": "nul_character",
}


async def test_what_parsers_may_do_as_they_like_with_is_taken_or_refused(
    caller: Caller, taking_json: list[Operation]
) -> None:
    for index, text in enumerate(cases("i").values()):
        made = await caller.send("POST", "/api/v1/batches", content=HEAD + text + b"}]}", headers=JSON)
        assert made.status_code in (202, 400)
        for operation in somewhere(index, taking_json):
            answer = await caller.send(operation.method, path_of(operation), content=text, headers=JSON)
            check(answer, taking_json)


# --- naughty strings ------------------------------------------------------------------------------------------

STORABLE = [text for text in NAUGHTY if "\0" not in text]


async def test_naughty_strings_are_kept_to_the_letter(caller: Caller) -> None:
    """As custom ids, inputs, names, metadata, file names: what may be stored comes back as it was."""
    assert len(NAUGHTY) == 515
    asked = [
        {"custom_id": f"{n}{text}"[:256], "input": {text[:200]: [text]}} for n, text in enumerate(NAUGHTY)
    ]
    made = await caller.post("/api/v1/batches", {"processor": "anything", "requests": asked})
    assert made.status_code == 202, made.text
    batch_id = made.json()["data"]["id"]
    results = await caller.data(f"/api/v1/batches/{batch_id}/results?limit=1000")
    assert [one["custom_id"] for one in results] == [one["custom_id"] for one in asked]
    for one in asked[:: 1 if LONG else 8]:
        where = f"/api/v1/batches/{batch_id}/results/{quote(str(one['custom_id']), safe='')}"
        assert (await caller.data(where))["input"] == one["input"]


async def test_naughty_strings_may_stand_anywhere(caller: Caller, service: Service) -> None:
    """As every field of a body, every query parameter, every part of a path, and in headers."""
    everywhere = operations(service.app)
    for index, text in enumerate(NAUGHTY):
        for operation in everywhere if LONG else everywhere[index % 29 :: 29]:
            for sent in requests_with(text, operation):
                check(await caller.send(operation.method, **sent), everywhere)


def requests_with(text: str, operation: Operation) -> Iterator[dict[str, Any]]:
    sane = path_of(operation)
    if operation.path_parameters:
        yield {
            "path": operation.path.format(**dict.fromkeys(operation.path_parameters, quote(text, safe="")))
        }
    for name in operation.query:
        yield {"path": f"{sane}?{quote(name)}={quote(text, safe='')}"}
    if operation.takes_json:
        schema = operation.words["requestBody"]["content"]["application/json"]["schema"]
        yield {
            "path": sane,
            "json": dict.fromkeys(("name", "url", "custom_id", "metadata", text[:99]), text),
        }
        yield {
            "path": sane,
            "json": {"metadata": {text: text}, "name": text, "requests": [text], str(schema): text},
        }
    if not any(character in text for character in "\r\n\0"):
        raw = text.encode()
        yield {"path": sane, "headers": {b"idempotency-key": raw, b"accept": raw, b"content-type": raw}}
