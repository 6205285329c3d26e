"""Whatever is sent to KooSearch's and Nexent's routes, nothing of it makes a 500, and every refusal has their shape."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import Caller, Service

BOUNDED = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "\x00", "\x1b[2J", "💥", "ÿ", "../..", "%s%n", "'; DROP TABLE batch; --", "x" * 3000, ":a"]
    ),
    st.text(max_size=20),
)
ODD = st.one_of(
    TEXTS,
    st.sampled_from([None, True, 0, -1, 2**31, 2**63 - 1, 0.5, 1e308, [], {}, [[]]]),
    st.recursive(
        st.none(),
        lambda one: st.lists(one, max_size=2) | st.dictionaries(st.text(max_size=3), one, max_size=2),
    ),
)
_SOURCE = (
    "source",
    "source_type",
    "index_name",
    "chunking_strategy",
    "original_filename",
    "embedding_model_id",
    "tenant_id",
)
_GOOD = {"source": "a.md", "source_type": "local", "index_name": "i", "chunking_strategy": "basic"}
SOURCES = st.dictionaries(st.sampled_from(_SOURCE), ODD, max_size=4).map(lambda odd: _GOOD | odd)
KOO = "/v1/p/applications/a/uni-search"


@pytest.fixture
async def ready(service: Service, caller: Caller) -> Caller:
    """With a sink, and where nobody is waited for."""
    config = {"sink": {"url": "https://sink.example.com/:index_name"}}
    made = await caller.post(
        "/api/v1/configurations", {"name": "nexent", "processor": "pipeline", "config": config}
    )
    assert made.status_code == 201, made.text
    service.app.state.parts.draining.set()
    return caller


def fits(answer: Any, allowed: set[int], *keys: str) -> None:
    assert answer.status_code in allowed, (answer.status_code, answer.text)
    if answer.status_code >= 400:
        assert sorted(answer.json()) == sorted(keys)


def koo(answer: Any) -> None:
    fits(answer, {200, 400, 404, 409, 413, 415}, "error_code", "error_msg")


def nexent(answer: Any) -> None:
    fits(answer, {200, 201, 404, 409, 413, 415, 422, 503}, "detail")


@BOUNDED
@given(
    body=st.dictionaries(
        st.sampled_from(["task_type", "file_ids", "task_context", "parser"]), ODD, max_size=4
    ),
    kind=st.sampled_from(["QA", "TABLE_EXTRACTION", "DELETE_TABLES", "RETRY_FILES"]),
)
async def test_bodies_of_koosearch(ready: Caller, body: dict[str, Any], kind: str) -> None:
    koo(await ready.post(f"{KOO}/kb/tasks", body))
    koo(await ready.post(f"{KOO}/kb/tasks", {"task_type": kind, "file_ids": ["a"]} | body))
    koo(await ready.send("PUT", f"{KOO}/kb/files/retry", json=body))


@BOUNDED
@given(
    name=st.sampled_from(
        ["page_size", "page_num", "task_type", "task_status", "file_name", "create_user", "x"]
    ),
    value=TEXTS,
    place=TEXTS,
)
async def test_paths_and_queries_of_koosearch(ready: Caller, name: str, value: str, place: str) -> None:
    koo(await ready.get(f"{KOO}/kb/tasks?{name}={quote(value, safe='')}"))
    segment = quote(place, safe="").replace(".", "%2E") or "a"
    for path in (f"{segment}/tasks", f"kb/tasks/{segment}", f"kb/task-detail/{segment}"):
        koo(await ready.get(f"{KOO}/{path}"))


@BOUNDED
@given(sources=st.lists(SOURCES | ODD, max_size=4), body=ODD)
async def test_bodies_of_nexent(ready: Caller, sources: list[Any], body: Any) -> None:
    answer = await ready.post("/tasks/batch", {"sources": sources})
    nexent(answer)
    if answer.status_code == 201:
        assert len(answer.json()["task_ids"]) == len(sources)
        nexent(await ready.get("/tasks"))
    nexent(await ready.send("POST", "/tasks/batch", json=body))
    for source in sources[:1]:
        nexent(await ready.send("POST", "/tasks", json=source))
    nexent(await ready.post("/tasks/convert_state", {"process_state": body}))


@BOUNDED
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["source", "source_type", "chunking_strategy", "timeout", "image_url", "positive_prompt"]
        ),
        TEXTS,
        max_size=5,
    ),
    place=TEXTS,
)
async def test_forms_and_paths_of_nexent(ready: Caller, values: dict[str, str], place: str) -> None:
    whole = {"source": "a.md", "source_type": "local", "image_url": "a.png"} | values
    for form in (values, whole):
        nexent(await ready.send("POST", "/tasks/process", data=form))
        nexent(await ready.send("POST", "/tasks/filter_important_image", data=form))
    files = {"file": (place.replace("\x00", "") or "a", b"text")}
    nexent(await ready.send("POST", "/tasks/process_text_file", files=files, data=values))
    segment = quote(place, safe="").replace(".", "%2E") or "a"
    for path in (f"indices/{segment}", f"{segment}/details", f"load_image?url={segment}"):
        nexent(await ready.get(f"/tasks/{path}"))
