"""`serve` and `worker`: they start with nothing set up, and leave in order."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from command import Command, Running, scripted, wait_for
from gristmill.embedded.postgres import running_url

KEY = "gm_a-key-for-tests-of-the-command-line"
pytestmark = pytest.mark.slow


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def _batch(running: Running, *items: dict[str, Any]) -> str:
    with running.client(KEY) as client:
        return str(
            client.post("/api/v1/batches", json=scripted(*items)).raise_for_status().json()["data"]["id"]
        )


def _get(running: Running, path: str) -> Any:
    with running.client(KEY) as client:
        return client.get(f"/api/v1/batches{path}").raise_for_status().json()["data"]


def _postmasters(data_dir: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres"
        and str(data_dir / "postgres" / "data") in (process.info["cmdline"] or [])
    ]


def test_the_first_start_makes_a_key_and_the_end_leaves_nothing_running(
    gristmill: Command, data_dir: Path
) -> None:
    with gristmill.serve() as running:
        assert httpx2.get(f"{running.url}/healthz").status_code == 200
        assert httpx2.get(f"{running.url}/readyz").status_code == 200
        assert running.new_key
        with running.client(running.new_key) as client:
            assert client.get("/api/v1/batches").status_code == 200
        with running.client("gm_guessed") as client:
            assert client.get("/api/v1/batches").status_code == 401
        assert len(_postmasters(data_dir)) == 1
        assert running.stop() == 0
        assert _postmasters(data_dir) == []
    with gristmill.serve() as again:
        assert again.new_key is None
        with again.client(running.new_key) as client:
            assert client.get("/api/v1/batches").status_code == 200
        assert again.stop(signal.SIGINT) == 0


def test_a_killed_server_takes_its_postgres_with_it(gristmill: Command, data_dir: Path) -> None:
    with gristmill.serve() as running:
        running.stop(signal.SIGKILL)
        _until(lambda: _postmasters(data_dir) == [])


def test_a_postgres_that_is_killed_comes_back(gristmill: Command, data_dir: Path) -> None:
    with gristmill.serve(GRISTMILL_API_KEY=KEY) as running:
        batch_id = _batch(running, {"answer": "before"})
        _until(lambda: _get(running, f"/{batch_id}")["status"] == "completed")
        (postmaster,) = _postmasters(data_dir)
        postmaster.kill()
        _until(lambda: _postmasters(data_dir) not in ([], [postmaster]))
        _until(lambda: httpx2.get(f"{running.url}/readyz").status_code == 200)
        assert _get(running, f"/{batch_id}/results")[0]["response_content"] == "before"
        batch_id = _batch(running, {"answer": "after"})
        _until(lambda: _get(running, f"/{batch_id}")["status"] == "completed")
        assert running.stop() == 0


def test_sigterm_lets_what_runs_finish(gristmill_on: Command) -> None:
    with gristmill_on.serve(GRISTMILL_API_KEY=KEY) as running:
        batch_id = _batch(running, {"sleep_seconds": 2})
        _until(lambda: _get(running, f"/{batch_id}/results")[0]["status"] == "processing")
        assert running.stop() == 0
    with gristmill_on.serve("--no-worker", GRISTMILL_API_KEY=KEY) as again:
        assert _get(again, f"/{batch_id}")["status"] == "completed"
        assert again.stop() == 0


def test_a_second_sigterm_does_not_wait(gristmill_on: Command) -> None:
    with gristmill_on.serve(GRISTMILL_API_KEY=KEY, GRISTMILL_DRAIN_SECONDS="60") as running:
        batch_id = _batch(running, {"do": "hang"})
        _until(lambda: _get(running, f"/{batch_id}/results")[0]["status"] == "processing")
        running.process.send_signal(signal.SIGTERM)
        _until(lambda: not _is_listening(running.url))
        assert running.process.poll() is None
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 20


def _is_listening(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_a_worker_joins_the_embedded_postgres_of_a_server(gristmill: Command, data_dir: Path) -> None:
    with gristmill.serve("--no-worker", GRISTMILL_API_KEY=KEY) as running:
        batch_id = _batch(running, *({"answer": number} for number in range(20)))
        assert _get(running, f"/{batch_id}")["completed_requests"] == 0
        with gristmill.start("worker") as worker:
            wait_for(worker, "at work")
            _until(lambda: _get(running, f"/{batch_id}")["status"] == "completed")
            worker.terminate()
            assert worker.wait(30) == 0
        assert running_url(data_dir / "postgres")
        assert running.stop() == 0


def test_a_worker_without_a_database_says_what_is_missing(gristmill: Command) -> None:
    refused = gristmill.call("worker")
    assert refused.returncode == 1
    assert "set GRISTMILL_DATABASE_URL, or start `gristmill serve`" in refused.stderr


def test_two_servers_do_not_share_a_folder_or_a_port(gristmill: Command, gristmill_on: Command) -> None:
    with gristmill.serve() as running:
        refused = gristmill.call("serve", "--port", "0")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "in use by another process" in refused.stderr
        refused = gristmill_on.call("serve", "--port", running.url.rsplit(":", 1)[1])
        assert refused.returncode == 1
        assert "Address already in use; set GRISTMILL_HOST and GRISTMILL_PORT" in refused.stderr
        assert running.stop() == 0


def test_the_log_is_json_when_asked_and_names_no_secret(gristmill_on: Command, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with gristmill_on.serve(
                GRISTMILL_API_KEY=KEY, GRISTMILL_LOG_FORMAT="json", GRISTMILL_LOG_LEVEL="debug"
            ) as running:
                _batch(running, {})
                httpx2.get(f"{running.url}/api/v1/batches?token=hush", headers={"x-api-key": "hush"})
                assert running.stop() == 0
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    text = log.read_text()
    assert all(json.loads(line)["message"] for line in text.splitlines())
    for secret in (KEY, "hush", *gristmill_on.environment["GRISTMILL_SECRET_KEY"].split(",")):
        assert secret not in text


def test_a_mistake_in_the_settings_is_told_in_one_line(gristmill_on: Command) -> None:
    refused = gristmill_on.run("serve", GRISTMILL_PORT="hush", GRISTMILL_CONCURRENCY="0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("gristmill: GRISTMILL_PORT: input should be a valid integer")
    assert "GRISTMILL_CONCURRENCY: input should be greater than or equal to 1" in refused.stderr
    assert "hush" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"GRISTMILL_SECRET_KEY": ""}, "set GRISTMILL_SECRET_KEY"),
        ({"GRISTMILL_SECRET_KEY": "hush"}, "GRISTMILL_SECRET_KEY: the secret key must be at least"),
        ({"GRISTMILL_API_KEY_FILE": "/nowhere"}, "cannot be read"),
        ({"GRISTMILL_DATABASE_URL": "postgresql://hush:hush@127.0.0.1:1/x"}, "Postgres cannot be used"),
        ({"GRISTMILL_DATABASE_URL": "mysql://hush:hush@db/hush"}, "the database URL cannot be used"),
        ({"GRISTMILL_LLM_BASE_URL": "hush"}, "GRISTMILL_LLM_BASE_URL"),
        ({"GRISTMILL_HOST": "256.0.0.1"}, "cannot listen on"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_used_is_told_by_name(
    gristmill_on: Command, environment: dict[str, str], told: str
) -> None:
    refused = gristmill_on.call("serve", "--port", "0", **environment)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert "hush" not in refused.stdout + refused.stderr


def test_a_schema_that_is_left_to_the_operator_is_not_touched(
    gristmill_on: Command, empty_database_url: str
) -> None:
    by_hand = {"GRISTMILL_DATABASE_URL": empty_database_url, "GRISTMILL_MIGRATE_ON_START": "false"}
    refused = gristmill_on.call("serve", "--port", "0", **by_hand)
    assert refused.returncode == 1
    assert "run `gristmill migrate`" in refused.stderr
    assert gristmill_on.call("migrate", **by_hand).returncode == 0
    with gristmill_on.serve(**by_hand) as running:
        assert running.stop() == 0
