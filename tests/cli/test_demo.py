"""The demo, from nothing to a verified webhook, on the real small model."""

import base64
import hmac
import json
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from command import Command
from gristmill.cli.local_model import LocalModel, is_installed
from gristmill.cli.questions import QUESTIONS
from gristmill.cli.receiver import Receiver


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


@pytest.mark.llm
@pytest.mark.skipif(not is_installed(), reason="the group llm is not installed")
def test_the_local_model_answers_counts_and_ends(tmp_path: Path) -> None:
    with LocalModel(tmp_path / "log") as model:
        (child,) = [
            child for child in psutil.Process().children() if "gristmill.cli.local_model" in child.cmdline()
        ]
        body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}
        answer = httpx2.post(f"{model.url}/chat/completions", json=body, timeout=60).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"]
        assert model.completions() == 1
        assert model.tokens() == answer["usage"]["completion_tokens"]
    assert not child.is_running()


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
