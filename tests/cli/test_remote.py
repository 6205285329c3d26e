"""The client: submit, watch, results, against a real server."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Command, Running

pytestmark = pytest.mark.slow
KEY = "gm_a-key-for-tests-of-the-client"


@pytest.fixture
def server(gristmill_on: Command) -> Iterator[Running]:
    with gristmill_on.serve(GRISTMILL_API_KEY=KEY) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def client(server: Running) -> Command:
    return Command({"GRISTMILL_PUBLIC_URL": server.url, "GRISTMILL_API_KEY": KEY})


def test_a_file_becomes_a_batch_and_its_results_a_file(client: Command, tmp_path: Path) -> None:
    requests = [
        {"custom_id": f"i{number}", "input": {"answer": f"ä,{number}\n\x1b[31m"}} for number in range(30)
    ]
    requests.append({"custom_id": "bad", "input": {"do": "fail"}})
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps(request) for request in requests))
    submitted = client.run("submit", str(file), "--processor", "scripted", "--name", "mine", "--watch")
    assert submitted.returncode == 0, submitted.stderr
    batch_id, *progress = submitted.stdout.split("\n", 1)
    assert "completed" in progress[0]
    assert "31/31" in progress[0]
    assert client.run("watch", batch_id).returncode == 0

    lines = [
        json.loads(line) for line in client.run("results", batch_id, "--format", "ndjson").stdout.splitlines()
    ]
    assert [line["custom_id"] for line in lines] == [request["custom_id"] for request in requests]
    rows = list(
        csv.DictReader(io.StringIO(client.run("results", batch_id, "--format", "csv").stdout, newline=""))
    )
    assert rows[7]["response_content"] == "ä,7\n\x1b[31m"
    failed = client.run("results", batch_id, "--status", "failed", "--format", "ndjson").stdout.splitlines()
    assert [json.loads(line)["custom_id"] for line in failed] == ["bad"]
    output = tmp_path / "results.ndjson"
    assert client.run("results", batch_id, "--format", "ndjson", "--output", str(output)).returncode == 0
    assert len(output.read_text().splitlines()) == 31
    table = client.run("results", batch_id).stdout
    assert "i29" in table
    assert "\x1b" not in table


def test_what_the_server_refuses_is_told_with_its_place(client: Command) -> None:
    refused = client.run(
        "submit", "-", "--processor", "scripted", stdin='{"custom_id": "a", "input": {"sleep_seconds": -1}}'
    )
    assert refused.returncode == 1
    assert "/requests/0/input/sleep_seconds" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (("results", "00000000-0000-7000-8000-000000000000"), {}, "(status 404)"),
        (("results", "00000000-0000-7000-8000-000000000000"), {"GRISTMILL_API_KEY": "wrong"}, "(status 401)"),
        (
            ("watch", "00000000-0000-7000-8000-000000000000"),
            {"GRISTMILL_API_KEY": ""},
            "set GRISTMILL_API_KEY",
        ),
        (
            ("watch", "00000000-0000-7000-8000-000000000000", "--url", "http://127.0.0.1:1"),
            {},
            "cannot be reached",
        ),
        (("submit", "/nowhere", "--processor", "scripted"), {}, "cannot read /nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    client: Command, arguments: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    refused = client.run(*arguments, **environment)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr
