"""What no official client sends: always a refusal in OpenAI's shape, never a 500, and nothing left."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest

import factories
from gristmill.db import Database
from gristmill.dialects.base import outward
from gristmill.store.origins import Origin
from service import Caller, new_key

FORM = "multipart/form-data; boundary=b"


def error(answer: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["message"]
    return found


def part(name: str, value: str, filename: str | None = None) -> str:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n{value}\r\n'


async def upload(caller: Caller, *parts: str) -> httpx2.Response:
    content = "".join(parts) + "--b--\r\n"
    return await caller.post("/v1/files", content=content, headers={"Content-Type": FORM})


GOOD = part("file", "{}\n", "a.jsonl")
BATCH = part("purpose", "batch")


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ((GOOD,), "purpose"),
        ((BATCH,), "file"),
        ((BATCH, part("file", "", "a.jsonl")), "file"),
        ((BATCH, part("file", "{}")), "file"),
        ((BATCH, GOOD, GOOD), "file"),
        ((BATCH, part("file", "{}", "")), "filename"),
        ((BATCH, part("file", "{}", "x" * 300)), "filename"),
        ((part("purpose", "\0"), GOOD), "purpose"),
        ((part("purpose", "x" * 5000), GOOD), "purpose"),
        ((GOOD, BATCH, part("expires_after[seconds]", "7200")), "expires_after[anchor]"),
        (
            (GOOD, BATCH, part("expires_after[anchor]", "created_at"), part("expires_after[seconds]", "²")),
            "expires_after[seconds]",
        ),
    ],
)
async def test_a_bad_form_is_refused_and_leaves_nothing(
    caller: Caller, database: Database, parts: tuple[str, ...], param: str
) -> None:
    assert error(await upload(caller, *parts))["param"] == param
    async with database.connection() as connection:
        for table in ("file", "file_discard"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_fields_come_in_any_order_and_unknown_ones_are_passed_over(caller: Caller) -> None:
    for parts in ((BATCH, GOOD), (GOOD, BATCH), (part("other", "x"), GOOD, part("more", "{}", "b"), BATCH)):
        made = await upload(caller, *parts)
        assert (made.status_code, made.json()["bytes"], made.json()["filename"]) == (200, 3, "a.jsonl")


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "", "text/plain"])
async def test_a_body_that_is_no_form_is_refused(caller: Caller, content_type: str) -> None:
    answer = await caller.post("/v1/files", content=b"{}", headers={"Content-Type": content_type})
    assert error(answer)["code"] == "invalid_multipart"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b'{"input_file_id": 5}', "input_file_id"),
        (b'{"metadata": {"a": 5}}', "input_file_id"),
        (b'{"metadata": "\\u0000"}', None),
        (b'{"metadata": "\\ud800"}', None),
    ],
)
async def test_a_create_that_is_none_is_refused(caller: Caller, body: bytes, param: str | None) -> None:
    answer = await caller.post("/v1/batches", content=body, headers={"Content-Type": "application/json"})
    assert error(answer)["param"] == param


async def test_every_unknown_id_is_a_404_and_every_bad_query_a_400(caller: Caller) -> None:
    nobodys = uuid4()
    ids = ["x", "%00", "file-", "batch_%C3%A9", outward("batch_", nobodys), str(nobodys)]
    for batch_id in ids:
        error(await caller.get(f"/v1/batches/{batch_id}"), 404)
        error(await caller.post(f"/v1/batches/{batch_id}/cancel"), 404)
    for prefix in ("file-", "file-output-", "file-error-"):
        for file_id in ("x", outward(prefix, nobodys)):
            error(await caller.get(f"/v1/files/{file_id}"), 404)
            error(await caller.get(f"/v1/files/{file_id}/content"), 404)
            error(await caller.send("DELETE", f"/v1/files/{file_id}"), 404)
    for path in (
        "/v1/batches?limit=0", "/v1/batches?limit=101", "/v1/batches?limit=x", "/v1/batches?after=x",
        "/v1/files?limit=10001", "/v1/files?order=up", "/v1/files?after=%00", "/v1/files?purpose=" + "x" * 300,
    ):  # fmt: skip
        assert error(await caller.get(path))["param"] in ("limit", "after", "order", "purpose")
    assert (await caller.get("/v1/batches?limit=3&unknown=1")).status_code == 200
    error(await caller.get("/v1/models"), 404)
    error(await caller.send("PUT", "/v1/batches"), 405)


async def test_who_may_read_files_only_reads_no_results_by_way_of_them(caller: Caller) -> None:
    database = caller.service.database
    batch_id = await factories.make_batch(database, 1, tenant_id=caller.tenant_id, origin=Origin("openai"))
    await factories.drain(database, await factories.make_worker(database))
    path = f"/v1/files/{outward('file-output-', batch_id)}"
    files_only = await new_key(caller.service, caller.tenant_id, ["files:read", "files:write"])
    for method, at in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        assert error(await files_only.send(method, at), 403)["code"] == "missing_scope"
    both = await new_key(caller.service, caller.tenant_id, ["files:read", "batches:read"])
    assert (await both.get(f"{path}/content")).status_code == 200
