"""Calls to a real server that misbehaves on request."""

import asyncio
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from fakes.llm import FakeLLM
from gristmill.domain.outcomes import Failure, Retry
from gristmill.metrics import REGISTRY
from gristmill.settings import Settings
from gristmill.upstream import client
from gristmill.upstream.client import Upstream
from gristmill.upstream.errors import UpstreamError

KEY = "sk-the-operators-own-key"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def settings(url: str, **more: Any) -> Settings:
    given = {"llm_base_url": url, "llm_api_key": SecretStr(KEY), "llm_timeout_seconds": 1.0} | more
    return Settings(**given)


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM(api_key=KEY) as server:
        yield server


@pytest.fixture
async def upstream(llm: FakeLLM) -> AsyncIterator[Upstream]:
    async with Upstream(settings(llm.url)) as opened:
        yield opened


async def failed(upstream: Upstream) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await upstream.post("/chat/completions", BODY)
    return caught.value


async def test_an_answer_comes_back_whole(llm: FakeLLM, upstream: Upstream) -> None:
    answer = await upstream.post("/chat/completions", BODY, request_id="batch:7")
    assert answer.status == 200
    assert answer.body["choices"][0]["message"]["content"] == "You said: hello"
    [request] = llm.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == BODY
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-client-request-id"] == "batch:7"


async def test_a_connection_is_used_again(llm: FakeLLM, upstream: Upstream) -> None:
    for _ in range(5):
        await upstream.post("/chat/completions", BODY)
    assert llm.connections == 1


async def test_300_calls_run_at_once(llm: FakeLLM) -> None:
    llm.together = asyncio.Barrier(300)
    async with Upstream(settings(llm.url, llm_timeout_seconds=30)) as upstream:
        await asyncio.gather(*(upstream.post("/chat/completions", BODY) for _ in range(300)))
    assert llm.most_in_flight == 300


async def test_nothing_is_kept_between_calls(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("cookie")
    await upstream.post("/chat/completions", BODY)
    await upstream.post("/chat/completions", BODY)
    assert "cookie" not in llm.requests[1].headers


async def test_the_environments_proxy_is_not_used(
    llm: FakeLLM, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert (await upstream.post("/chat/completions", BODY)).status == 200


async def test_the_query_of_the_base_url_stays(llm: FakeLLM) -> None:
    async with Upstream(settings(f"{llm.url}?api-version=2026-01")) as upstream:
        await upstream.post("/chat/completions", BODY)
    assert llm.requests[0].path == "/v1/chat/completions?api-version=2026-01"


PERMANENT = {
    400: "upstream_rejected",
    401: "upstream_unauthorized",
    402: "upstream_payment_required",
    403: "upstream_unauthorized",
    404: "upstream_not_found",
    405: "upstream_not_found",
    410: "upstream_rejected",
    413: "upstream_too_long",
    415: "upstream_rejected",
    422: "upstream_rejected",
    451: "upstream_rejected",
}
COUNTED = {
    408: "upstream_timeout",
    409: "upstream_conflict",
    500: "upstream_error",
    501: "upstream_error",
    502: "upstream_error",
    504: "upstream_timeout",
    529: "upstream_overloaded",
    599: "upstream_error",
    300: "upstream_redirect",
    302: "upstream_redirect",
}
WAITING = {429: "upstream_rate_limited", 503: "upstream_unavailable"}


@pytest.mark.parametrize(("status", "kind"), PERMANENT.items())
async def test_a_refusal_is_final(llm: FakeLLM, upstream: Upstream, status: int, kind: str) -> None:
    llm.misbehave(f"status:{status}")
    outcome = (await failed(upstream)).outcome()
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type, outcome.error.upstream_status) == (500, kind, status)
    assert not outcome.error.retryable


@pytest.mark.parametrize(("status", "kind"), COUNTED.items())
async def test_a_trouble_of_theirs_is_tried_again_and_counts(
    llm: FakeLLM, upstream: Upstream, status: int, kind: str
) -> None:
    llm.misbehave(f"status:{status}")
    outcome = (await failed(upstream)).outcome()
    assert isinstance(outcome, Retry)
    assert (outcome.error.code, outcome.error.type, outcome.error.upstream_status) == (500, kind, status)
    assert outcome.error.retryable
    assert not outcome.waiting
    assert outcome.delay_seconds is None


@pytest.mark.parametrize(("status", "kind"), WAITING.items())
async def test_no_capacity_uses_up_no_attempt(
    llm: FakeLLM, upstream: Upstream, status: int, kind: str
) -> None:
    llm.misbehave(f"status:{status}")
    outcome = (await failed(upstream)).outcome()
    assert isinstance(outcome, Retry)
    assert (outcome.error.type, outcome.error.upstream_status, outcome.waiting) == (kind, status, True)
    assert outcome.delay_seconds is not None
    assert 0.8 <= outcome.delay_seconds <= 1.2


@pytest.mark.parametrize(
    ("fault", "kind"),
    {
        "hang": "upstream_timeout",
        "hang_in_body": "upstream_timeout",
        "drip": "upstream_timeout",
        "reset": "upstream_connection_lost",
        "reset_in_body": "upstream_connection_lost",
        "close": "upstream_connection_lost",
        "short_body": "upstream_connection_lost",
        "cut_chunks": "upstream_connection_lost",
        "bad_chunks": "upstream_connection_lost",
        "bad_chunks_later": "upstream_connection_lost",
        "not_http": "upstream_connection_lost",
        "endless_headers": "upstream_connection_lost",
        "huge": "upstream_answer_too_large",
        "huge_declared": "upstream_timeout",
        "bomb": "upstream_answer_too_large",
        "html": "upstream_bad_answer",
        "html_502": "upstream_error",
        "huge_error": "upstream_error",
        "no_content": "upstream_bad_answer",
        "wrong_json": "upstream_bad_answer",
        "empty_body": "upstream_bad_answer",
        "json_array": "upstream_bad_answer",
        "json_scalar": "upstream_bad_answer",
        "invalid_utf8": "upstream_bad_answer",
        "deep": "upstream_bad_answer",
        "error_inside": "upstream_bad_answer",
        "redirect": "upstream_redirect",
    }.items(),
)
async def test_a_fault_is_named_and_the_next_call_works(
    llm: FakeLLM, upstream: Upstream, fault: str, kind: str
) -> None:
    llm.misbehave(fault)
    outcome = (await failed(upstream)).outcome()
    assert isinstance(outcome, Retry)
    assert (outcome.error.code, outcome.error.type, outcome.waiting) == (500, kind, False)
    assert outcome.error.retryable
    assert KEY not in repr(outcome)
    assert (await upstream.post("/chat/completions", BODY)).status == 200
    assert len(llm.requests) == 2  # neither repeated behind our back, nor redirected


async def test_an_error_whose_body_hangs_is_known_by_its_status(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("error_hangs")
    assert (await failed(upstream)).error.upstream_status == 500


async def test_a_status_inside_a_200_counts_as_that_status(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("error_inside:429")
    error = await failed(upstream)
    assert error.waiting
    assert error.error.upstream_status == 429


async def test_large_answers_do_not_fill_the_memory(llm: FakeLLM, upstream: Upstream) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for fault in ("huge", "huge_error", "huge", "huge_error"):
        llm.misbehave(fault)
        await failed(upstream)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 120_000  # of 200 MB sent


@pytest.mark.parametrize("fault", ["nul", "half_emoji"])
async def test_what_no_text_in_postgres_can_hold_is_replaced(
    llm: FakeLLM, upstream: Upstream, fault: str
) -> None:
    llm.misbehave(fault)
    content = (await upstream.post("/chat/completions", BODY)).body["choices"][0]["message"]["content"]
    assert content == {"nul": "a\ufffdb", "half_emoji": "cut \ufffd"}[fault]


async def test_an_escape_that_is_only_text_stays(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("nul_escaped")
    content = (await upstream.post("/chat/completions", BODY)).body["choices"][0]["message"]["content"]
    assert content == "a\\u0000b"


async def test_a_server_that_is_down_is_waited_for_longer_and_longer(
    llm: FakeLLM, upstream: Upstream
) -> None:
    await upstream.post("/chat/completions", BODY)
    await llm.stop()
    outcome = (await failed(upstream)).outcome()
    while isinstance(outcome, Retry) and outcome.error.type == "upstream_connection_lost":
        outcome = (await failed(upstream)).outcome()  # the connection that was kept alive
    assert isinstance(outcome, Retry)
    assert (outcome.error.type, outcome.waiting) == ("upstream_unavailable", True)
    assert outcome.delay_seconds is not None
    assert 0.8 <= outcome.delay_seconds <= 1.2
    assert "GRISTMILL_LLM_BASE_URL" in (outcome.error.suggestion or "")


async def test_an_unknown_name_is_waited_for() -> None:
    async with Upstream(settings("http://no-such-host.invalid/v1", llm_timeout_seconds=20.0)) as upstream:
        error = await failed(upstream)
    assert (error.error.type, error.waiting) == ("upstream_unavailable", True)


async def test_no_tls_where_tls_is_expected_is_waited_for(llm: FakeLLM) -> None:
    async with Upstream(settings(llm.url.replace("http:", "https:"))) as upstream:
        error = await failed(upstream)
    assert (error.error.type, error.waiting) == ("upstream_unavailable", True)


async def test_a_call_ends_at_its_deadline_however_it_drips(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("drip")
    started = asyncio.get_running_loop().time()
    await failed(upstream)
    assert 0.9 < asyncio.get_running_loop().time() - started < 3


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("retry-after=7", 7, 7.7),
        ("retry-after=0.5", 0.5, 0.55),
        ("retry-after-ms=1500", 1.5, 1.65),
        ("retry-after=date+20", 18, 22),
        ("retry-after=86400", 120, 120),
        ("retry-after=date+9000", 120, 120),
        ("retry-after=0", 0.8, 1.2),
        ("retry-after=date-50", 0.8, 1.2),
        ("retry-after=soon", 0.8, 1.2),
        ("retry-after=-3", 0.8, 1.2),
        ("retry-after=1e9", 0.8, 1.2),
        ("retry-after=nan", 0.8, 1.2),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(
    llm: FakeLLM, upstream: Upstream, status: int, asked: str, least: float, most: float
) -> None:
    llm.misbehave(f"status:{status} {asked}")
    error = await failed(upstream)
    assert error.waiting
    assert error.delay_seconds is not None
    assert least <= error.delay_seconds <= most


async def test_retry_after_is_honoured_on_a_500_which_still_counts(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("status:500 retry-after=9")
    error = await failed(upstream)
    assert not error.waiting
    assert error.delay_seconds is not None
    assert 9 <= error.delay_seconds <= 9.9


async def test_an_exhausted_quota_waits_a_minute(llm: FakeLLM, upstream: Upstream) -> None:
    llm.misbehave("status:429 code=insufficient_quota")
    error = await failed(upstream)
    assert (error.error.type, error.waiting, error.delay_seconds) == ("upstream_quota_exhausted", True, 60)


async def test_a_wrong_key_is_named_but_not_shown(llm: FakeLLM) -> None:
    async with Upstream(settings(llm.url, llm_api_key=SecretStr("sk-wrong-key-123456"))) as upstream:
        error = await failed(upstream)
    assert error.error.suggestion == "Check GRISTMILL_LLM_API_KEY."
    assert "wrong-key" not in repr(error.outcome()) + str(error)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_a_key_that_the_provider_repeats_is_masked(
    llm: FakeLLM, upstream: Upstream, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    llm.misbehave(f"status:{status}")
    error = await failed(upstream)
    assert f"This is a {status}, for the key" in error.error.message
    assert KEY not in error.error.message + caplog.text


@pytest.mark.parametrize(
    "url", [None, "", "ftp://host/v1", "api.openai.com/v1", "http://", "http://[", "/v1"]
)
def test_an_unusable_url_is_refused_at_the_start(url: str | None) -> None:
    with pytest.raises(ValueError, match="must be an http or https URL"):
        Upstream(Settings(llm_base_url=url))


def test_credentials_in_the_url_are_refused_without_showing_them() -> None:
    with pytest.raises(ValueError, match="GRISTMILL_LLM_API_KEY") as caught:
        Upstream(Settings(llm_base_url="https://me:hunter2@host/v1"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "completion", "cost"),
    [(None, None, None), (0.15, 0.6, 750), (0.15, None, 150), (None, 0.6, 600), (0.0, 0.0, 0)],
)
def test_cost_follows_the_configured_prices(
    prompt: float | None, completion: float | None, cost: int | None
) -> None:
    upstream = Upstream(settings("http://host/v1", llm_price_prompt=prompt, llm_price_completion=completion))
    assert upstream.cost(1000, 1000) == cost


async def test_calls_are_counted_by_status_or_kind(llm: FakeLLM, upstream: Upstream) -> None:
    def count(status: str) -> float:
        return REGISTRY.get_sample_value("gristmill_upstream_call_seconds_count", {"status": status}) or 0

    before = {status: count(status) for status in ("200", "502", "upstream_connection_lost")}
    llm.misbehave("status:502", "reset")
    await failed(upstream)
    await failed(upstream)
    await upstream.post("/chat/completions", BODY)
    assert {status: count(status) for status in before} == {
        status: seen + 1 for status, seen in before.items()
    }


async def test_an_answer_that_falls_silent_is_given_up_before_the_deadline(
    llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SILENCE_SECONDS", 0.2)
    llm.misbehave("hang_in_body", "drip")
    async with Upstream(settings(llm.url, llm_timeout_seconds=1.5)) as upstream:
        assert "the next piece" in (await failed(upstream)).error.message
        assert (
            "did not answer within 1.5" in (await failed(upstream)).error.message
        )  # never silent for so long
