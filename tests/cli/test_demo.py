"""The demo, from nothing to a verified webhook, on the real small model."""

import asyncio
import base64
import hmac
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import psutil
import pytest
from rich.console import Console

from command import Command
from fakes.llm import FakeLLM
from gristmill.cli import demo
from gristmill.cli.local_model import LocalModel, is_installed
from gristmill.cli.questions import QUESTIONS
from gristmill.cli.receiver import Receiver
from gristmill.cli.refusal import Refusal


@pytest.mark.llm
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not is_installed(), reason="the group llm is not installed")
def test_the_demo_goes_the_whole_way(data_dir: Path) -> None:
    shown = Command({"GRISTMILL_DATA_DIR": str(data_dir)}).run("demo", "--exit", seconds=300)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "both signatures are valid" in shown.stdout
    assert f"recorded {len(QUESTIONS)} completions" in shown.stdout
    assert all(question in shown.stdout for question in QUESTIONS)
    assert not data_dir.exists()


@pytest.mark.slow
async def test_each_answer_of_the_demo_is_another_one_and_the_models_server_recorded_it(
    data_dir: Path,
) -> None:
    async with FakeLLM() as llm:
        command = Command({"GRISTMILL_DATA_DIR": str(data_dir), "GRISTMILL_LLM_BASE_URL": llm.url})
        shown = await asyncio.to_thread(
            command.run, "demo", "--exit", GRISTMILL_LLM_MODEL="any", COLUMNS="300"
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        recorded = [request.body["messages"][-1]["content"] for request in llm.requests]
    assert sorted(recorded) == sorted(QUESTIONS)
    answers = re.findall(r"You said: (.*?)(?: {2}.*)?│", shown.stdout)
    assert len(set(answers)) == len(QUESTIONS)


def test_the_demo_refuses_answers_that_are_missing_or_the_same() -> None:
    results: list[dict[str, Any]] = [{"status": "success", "response_content": text} for text in QUESTIONS]
    demo._check_answers(results)
    for index, wrong in (
        (7, {"status": "success", "response_content": QUESTIONS[3]}),
        (0, {"status": "success", "response_content": " "}),
        (23, {"status": "failed", "response_content": None}),
    ):
        with pytest.raises(Refusal, match="of 24 answers only 23"):
            demo._check_answers([*results[:index], wrong, *results[index + 1 :]])


@pytest.mark.parametrize(
    ("completions", "tokens", "fine"), [(24, 240, True), (23, 240, False), (24, 239, False)]
)
def test_the_demo_refuses_answers_that_the_model_did_not_record(
    completions: int, tokens: int, fine: bool
) -> None:
    results = [{"response_usage": {"total_completion_tokens": 10}} for _ in QUESTIONS]
    model: Any = SimpleNamespace(completions=lambda: completions, tokens=lambda: tokens)
    if fine:
        demo._check_model(Console(quiet=True), model, results)
    else:
        with pytest.raises(Refusal, match=f"recorded {completions} completions of {tokens} tokens"):
            demo._check_model(Console(quiet=True), model, results)


@pytest.mark.llm
@pytest.mark.skipif(not is_installed(), reason="the group llm is not installed")
def test_the_local_model_answers_counts_and_ends(tmp_path: Path) -> None:
    with LocalModel(tmp_path / "log") as model:
        (child,) = filter(_is_a_local_model, psutil.Process().children())
        body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}
        answer = httpx2.post(f"{model.url}/chat/completions", json=body, timeout=60).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"]
        assert model.completions() == 1
        assert model.tokens() == answer["usage"]["completion_tokens"]
    assert not child.is_running()


def _is_a_local_model(process: psutil.Process) -> bool:
    try:
        return "gristmill.cli.local_model" in process.cmdline()
    except psutil.NoSuchProcess:  # a child of another test, that has ended
        return False


def test_the_receiver_takes_only_what_is_signed() -> None:
    with Receiver() as receiver:
        body = json.dumps({"id": "evt_1", "type": "batch.completed"}).encode()
        now = str(int(time.time()))
        key = base64.b64decode(receiver.secret.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.digest(key, f"evt_1.{now}.".encode() + body, "sha256")).decode()
        other = hmac.digest(receiver.secret.encode(), f"{now}.".encode() + body, "sha256").hex()
        genuine = {
            "webhook-id": "evt_1",
            "webhook-timestamp": now,
            "webhook-signature": f"v1,{signature}",
            "X-Codeer-Signature": f"sha256={other}",
        }
        for wrong in (
            {},
            {"webhook-timestamp": "0"},
            {"webhook-timestamp": "soon"},
            {"webhook-signature": "v1,AAAA"},
            {"X-Codeer-Signature": "sha256=00"},
        ):
            sent = httpx2.post(receiver.url, content=body, headers=genuine | wrong if wrong else {})
            assert sent.status_code == 401
        assert httpx2.post(receiver.url, content=body + b" ", headers=genuine).status_code == 401
        assert receiver.event is None
        assert httpx2.post(receiver.url, content=body, headers=genuine).status_code == 204
        assert receiver.wait(5) == json.loads(body)
