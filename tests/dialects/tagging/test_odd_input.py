"""Whatever is sent to the routes of tagging jobs, nothing of it makes a 500, and every refusal has their shape."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import Caller

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "\x00", "\x1b[2J", "💥", "../..", "'; DROP TABLE batch; --", "x" * 3000]),
    st.text(max_size=20),
)
ODD = st.one_of(
    TEXTS,
    st.sampled_from([None, True, 0, -1, 2**63 - 1, 0.5, 1e308, [], {}, [[]]]),
    st.recursive(
        st.none(),
        lambda one: st.lists(one, max_size=2) | st.dictionaries(st.text(max_size=3), one, max_size=2),
    ),
)
COLUMNS = st.sampled_from(["title", "file_path", "file_source_type", "description", "c1", "", "x" * 300])
CONFIG = st.dictionaries(
    st.sampled_from(["api_key", "model_name", "num_pages", "num_tags", "exclusion_words", "x"]), ODD
).map(lambda odd: {"api_key": "sk-good"} | odd)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "documents": st.one_of(
            ODD, st.lists(st.one_of(ODD, st.dictionaries(COLUMNS, ODD, max_size=4)), max_size=3)
        ),
        "config": st.one_of(ODD, CONFIG),
        "column_mapping": st.one_of(ODD, st.dictionaries(COLUMNS, st.one_of(ODD, COLUMNS), max_size=3)),
        "job_id": ODD,
    },
)


def fits(answer: Any, allowed: set[int]) -> None:
    assert answer.status_code in allowed, (answer.status_code, answer.text)
    if answer.status_code >= 400:
        assert isinstance(answer.json()["detail"], str)
        assert set(answer.json()) <= {"detail", "errors"}


@BOUNDED
@given(sent=BODIES)
async def test_no_body_of_a_start_is_a_500(caller: Caller, sent: dict[str, Any]) -> None:
    fits(await caller.post("/api/batch/start", sent), {200, 400, 409})


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"x"', b"\xff", b'{"a":NaN}'])
async def test_what_is_no_object_is_a_400(caller: Caller, raw: bytes) -> None:
    for path in ("/api/batch/start", "/api/batch/validate-paths"):
        headers = {"Content-Type": "application/json"}
        fits(await caller.send("POST", path, content=raw, headers=headers), {400})
        fits(await caller.send("POST", path, content=raw, headers={"Content-Type": "text/plain"}), {415})


@BOUNDED
@given(
    job_id=TEXTS,
    query=st.dictionaries(st.sampled_from(["limit", "offset", "status", "x"]), TEXTS, max_size=3),
)
async def test_no_id_and_no_query_is_a_500(caller: Caller, job_id: str, query: dict[str, str]) -> None:
    name = quote(job_id, safe="")
    for path in (f"/api/batch/jobs/{name}/status", f"/api/history/jobs/{name}", "/api/history/jobs"):
        fits(await caller.get(path, params=query), {200, 400, 404, 405})
    for action in ("pause", "resume", "cancel"):
        fits(await caller.post(f"/api/batch/jobs/{name}/{action}"), {400, 404, 405})
    fits(await caller.send("DELETE", f"/api/history/jobs/{name}"), {400, 404, 405})


@BOUNDED
@given(
    paths=st.one_of(
        ODD, st.lists(st.one_of(ODD, st.dictionaries(st.sampled_from(["path", "type"]), ODD)), max_size=3)
    )
)
async def test_no_path_is_a_500(caller: Caller, paths: Any) -> None:
    fits(await caller.post("/api/batch/validate-paths", {"paths": paths}), {200, 400})
