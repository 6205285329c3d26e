"""No input makes a 500: random bodies, queries, paths and headers on every route."""

import copy
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import Caller

DOCUMENTED = {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 413, 415}
BOUNDED = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Values that are wrong in one way or another in most places.
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            1,
            2**31,
            2**63 - 1,
            -(2**63),
            0.5,
            1e308,
            "",
            " ",
            "x" * 300,
            [],
            {},
            [[]],
        ]
    ),
    st.sampled_from(
        [
            "\x00",
            "\x1b[2J",
            "\u202e",
            "💥",
            "ÿ",
            "../..",
            "%s%n",
            "'; DROP TABLE batch; --",
            "NaN",
            "2026-11-22",
        ]
    ),
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.recursive(
        st.none(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
)
_NAMES = """agent_id processor config requests webhook name metadata collection priority deadline_seconds max_attempts
item_timeout_seconds max_concurrency start_paused model instructions parameters mcp_servers version
url filename purpose file_ids x"""
_PARAMETERS = """limit offset cursor status processor agent_id created_after created_before name collection created_by
metadata.a error_code custom_id external_user_id filename media_type purpose files"""
_METHODS = "GET POST PUT PATCH DELETE HEAD OPTIONS"
NAMES = st.sampled_from(_NAMES.split())
PARAMETERS = st.sampled_from(_PARAMETERS.split())
METHODS = st.sampled_from(_METHODS.split())
GETS = (
    "batches",
    "batches/{id}",
    "batches/{id}/results",
    "batches/{id}/results/req-0",
    "batches/{id}/deliveries",
    "agents",
    "agents/{agent}",
    "agents/{agent}/versions",
    "files",
    "directories",
    "directories/{directory}",
    "directories/{directory}/files",
    "chats",
    "chats/1/messages",
    "processors",
    "processors/noop",
)


@pytest.fixture
async def agent_id(caller: Caller) -> str:
    return await caller.agent()


@pytest.fixture
async def directory_id(caller: Caller) -> str:
    return await caller.directory()


@pytest.fixture
async def batch_id(caller: Caller) -> str:
    return str((await caller.batch(1))["id"])


def _parents(value: Any) -> list[Any]:
    """Every object and array within a value."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list)) and one:
            found.append(one)
            waiting += one.values() if isinstance(one, dict) else one
    return found


def mutated(draw: Any, body: dict[str, Any]) -> dict[str, Any]:
    """The body with one to three values replaced, added or taken out."""
    changed = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        parent = draw(st.sampled_from(_parents(changed)))
        if isinstance(parent, list):
            parent[draw(st.integers(0, len(parent) - 1))] = draw(ODD)
        elif draw(st.booleans()):
            parent[draw(st.sampled_from(sorted(parent)))] = draw(ODD)
        else:
            parent[draw(NAMES)] = draw(ODD)
        if not _parents(changed):
            break
    return changed


@BOUNDED
@given(data=st.data())
async def test_any_change_of_a_good_body_is_taken_or_refused(
    caller: Caller, agent_id: str, directory_id: str, data: st.DataObject
) -> None:
    server = {"name": "a", "url": "https://a.example.com/", "headers": {"A": "b"}}
    webhook = {"url": "https://a.example.com/", "events": ["completed"], "secret": "s"}
    asked = {"custom_id": "a", "message": "hello", "history_id": 1, "attached_file_uuids": [agent_id]}
    given_input = {"custom_id": "a", "input": {"text": "x"}}
    path, body = data.draw(
        st.sampled_from(
            [
                ("batches", {"agent_id": agent_id, "requests": [asked, asked], "webhook": webhook}),
                (
                    "batches",
                    {"processor": "noop", "requests": [given_input], "metadata": {"a": "b"}, "config": {}},
                ),
                ("agents", {"name": "a", "model": "m", "parameters": {"a": 1}, "mcp_servers": [server]}),
                (f"agents/{agent_id}/publish", {"version": 1}),
                ("files", {"url": "https://127.0.0.1/x", "filename": "x", "purpose": "y"}),
                ("directories", {"name": "a"}),
                (f"directories/{directory_id}/files", {"file_ids": [agent_id, agent_id]}),
            ]
        )
    )
    answer = await caller.post(f"/api/v1/{path}", mutated(data.draw, body))
    assert answer.status_code in DOCUMENTED, answer.text


@BOUNDED
@given(
    text=st.binary(max_size=60),
    content_type=st.sampled_from(["application/json", "multipart/form-data; boundary=b"]),
)
async def test_any_bytes_are_taken_or_refused(
    caller: Caller, directory_id: str, text: bytes, content_type: str
) -> None:
    for path in ("batches", "agents", "files", "directories", f"directories/{directory_id}/zip"):
        answer = await caller.send(
            "POST", f"/api/v1/{path}", content=text, headers={"content-type": content_type}
        )
        assert answer.status_code in DOCUMENTED, answer.text


@BOUNDED
@given(
    path=st.sampled_from(GETS),
    query=st.lists(st.tuples(PARAMETERS, ODD.map(str) | st.integers(0, 70).map(str)), max_size=3),
    raw=st.binary(max_size=6),
)
async def test_any_query_is_answered(
    caller: Caller, directory_id: str, path: str, query: list[tuple[str, str]], raw: bytes
) -> None:
    text = "&".join(f"{name}={quote(value.encode('utf-8', 'replace'))}" for name, value in query)
    target = f"/api/v1/{path.format(id=batch_id, agent=agent_id, directory=directory_id)}?{text}&{quote(raw, safe='=&')}"
    answer = await caller.get(target)
    assert answer.status_code in DOCUMENTED, answer.text
    orjson.loads(answer.content)


@BOUNDED
@given(method=METHODS, segments=st.lists(st.text(max_size=8), max_size=4))
async def test_any_path_is_answered(caller: Caller, method: str, segments: list[str]) -> None:
    start = ["batches", "agents", "files", "chats", "deliveries", "processors"][len(segments)]
    path = "/".join(quote(one.encode("utf-8", "replace"), safe="") for one in [start, *segments])
    answer = await caller.send(method, f"/api/v1/{path}")
    assert answer.status_code in DOCUMENTED, answer.text


@BOUNDED
@given(accept=st.binary(max_size=30), key=st.binary(max_size=30), content_type=st.binary(max_size=30))
async def test_any_header_is_answered(caller: Caller, accept: bytes, key: bytes, content_type: bytes) -> None:
    headers = [
        (b"accept", accept),
        (b"x-auth-token", key),
        (b"x-api-key", caller.key.encode()),
        (b"content-type", content_type),
    ]
    client = caller.service.client
    for method in ("GET", "POST"):
        answer = await client.request(method, "/api/v1/batches", headers=headers, content=b"{}")
        assert answer.status_code in DOCUMENTED, answer.text
