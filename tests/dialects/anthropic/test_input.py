"""What no official client sends: always a refusal in Anthropic's shape, never a 500."""

from uuid import uuid4

import httpx2
import pytest

from gristmill.dialects.base import outward
from service import Caller

PATH = "/v1/messages/batches"


def error(answer: httpx2.Response, status: int, kind: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == answer.headers["request-id"]
    message: str = body["error"]["message"]
    assert message
    return message


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"nonsense",
        b'{"requests": [1]}',
        b'{"requests": [{"custom_id": "a", "params": []}]}',
        b'{"requests": [{"custom_id": "a", "params": {"x": "\\u0000"}}]}',
        b'{"requests": [{"custom_id": "a", "params": {"x": "\\ud800"}}]}',
        b'{"requests": [{"custom_id": "a", "params": {"x": NaN}}]}',
        b'{"requests": [{"custom_id": 5, "params": {}}]}',
        b'{"requests": [{"custom_id": "a", "params": {}}], "requests": []}',
        b'{"requests": [{"custom_id": "a", "params": ' + b'{"x":' * 70 + b"1" + b"}" * 70 + b"}]}",
        b'{"requests": [{"custom_id": "a", "params": {"x": "' + b"x" * 1_100_000 + b'"}}]}',
        b'{"around": "' + b"x" * 70_000 + b'", "requests": []}',
        b"\xff\xfe",
    ],
)
async def test_a_create_that_is_none_is_refused(caller: Caller, body: bytes) -> None:
    answer = await caller.post(PATH, content=body, headers={"Content-Type": "application/json"})
    error(answer, 400, "invalid_request_error")
    assert (await caller.get(PATH)).json()["data"] == []


async def test_a_body_of_another_type_is_refused(caller: Caller) -> None:
    answer = await caller.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"})
    error(answer, 415, "invalid_request_error")


async def test_every_unknown_id_is_a_404_and_every_bad_query_a_400(caller: Caller) -> None:
    for batch_id in ("x", "%00", "msgbatch_", "msgbatch_%C3%A9", outward("msgbatch_", uuid4()), str(uuid4())):
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/results")):
            error(await caller.send(method, f"{PATH}/{batch_id}{path}"), 404, "not_found_error")
    for query in ("limit=0", "limit=1001", "limit=x", "after_id=x", "before_id=%00"):
        error(await caller.get(f"{PATH}?{query}"), 400, "invalid_request_error")
    assert (await caller.get(f"{PATH}?limit=1000&beta=true")).status_code == 200
    error(await caller.post("/v1/messages", {}), 404, "not_found_error")


async def test_a_batch_that_runs_is_neither_deleted_nor_read(caller: Caller) -> None:
    body = {"requests": [{"custom_id": "a", "params": {}}]}
    made = (await caller.post(PATH, body)).json()
    assert made["processing_status"] == "in_progress"
    for method, path in (("DELETE", ""), ("GET", "/results")):
        answer = await caller.send(method, f"{PATH}/{made['id']}{path}")
        error(answer, 409, "invalid_request_error")
        assert answer.headers["x-should-retry"] == "false"
    canceled = (await caller.post(f"{PATH}/{made['id']}/cancel")).json()
    assert canceled["processing_status"] == "canceling"
