"""The client: submit, watch, results, against a real server."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from command import Command
from databases import Server
from fakes.cutting import Cutter, When, cutting

pytestmark = pytest.mark.slow
KEY = "gm_a-key-for-tests-of-the-client"


@pytest.fixture(scope="module")
async def module_database_url(server: Server) -> AsyncIterator[str]:
    name = f"gristmill_test_{uuid4().hex}"
    yield await server.create(name, template=server.template)
    await server.drop(name)


@pytest.fixture(scope="module")
def client(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Settings of somebody who has nothing but an URL and a key."""
    settings = {
        "GRISTMILL_DATABASE_URL": module_database_url,
        "GRISTMILL_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "GRISTMILL_SECRET_KEY": "a secret key for tests, long enough",
    }
    with Command(settings).serve(GRISTMILL_API_KEY=KEY) as running:
        yield Command({"GRISTMILL_PUBLIC_URL": running.url, "GRISTMILL_API_KEY": KEY})
        assert running.stop() == 0


def test_a_file_becomes_a_batch_and_its_results_a_file(client: Command, tmp_path: Path) -> None:
    requests = [
        {"custom_id": f"i{number}", "input": {"answer": f"ä,{number}\n\x1b[31m"}} for number in range(30)
    ]
    requests.append({"custom_id": "bad", "input": {"do": "fail"}})
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps(request) for request in requests))
    submitted = client.call("submit", str(file), "--processor", "scripted", "--name", "mine", "--watch")
    assert submitted.returncode == 0, submitted.stderr
    batch_id, *progress = submitted.stdout.split("\n", 1)
    assert "completed" in progress[0]
    assert "31/31" in progress[0]
    assert client.call("watch", batch_id).returncode == 0

    lines = [
        json.loads(line)
        for line in client.call("results", batch_id, "--format", "ndjson").stdout.splitlines()
    ]
    assert [line["custom_id"] for line in lines] == [request["custom_id"] for request in requests]
    rows = list(
        csv.DictReader(io.StringIO(client.call("results", batch_id, "--format", "csv").stdout, newline=""))
    )
    assert rows[7]["response_content"] == "ä,7\n\x1b[31m"
    assert rows[30]["error_type"] == "scripted"
    failed = client.call("results", batch_id, "--status", "failed", "--format", "ndjson").stdout.splitlines()
    assert [json.loads(line)["custom_id"] for line in failed] == ["bad"]
    output = tmp_path / "results.ndjson"
    assert client.call("results", batch_id, "--format", "ndjson", "--output", str(output)).returncode == 0
    assert len(output.read_text().splitlines()) == 31
    table = client.call("results", batch_id).stdout
    assert "i29" in table
    assert "\x1b" not in table


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_batch_whose_answer_was_lost_is_submitted_again_and_made_once(
    client: Command, when: When
) -> None:
    url = urlsplit(client.environment["GRISTMILL_PUBLIC_URL"])
    assert url.hostname is not None
    assert url.port is not None
    name = f"lost {when}"
    async with cutting(Cutter(url.hostname, url.port)) as cutter:
        cutter.cut_at(b"POST /api/v1/batches", when)
        arguments = ("submit", "-", "--processor", "scripted", "--name", name, "--url", cutter.http_url)
        line = '{"custom_id": "a", "input": {}}'
        submitted = await asyncio.to_thread(client.run, *arguments, stdin=line)
    assert (submitted.returncode, submitted.stderr, cutter.cuts) == (0, "", 1)
    with httpx2.Client(base_url=url.geturl(), headers={"x-api-key": KEY}, trust_env=False) as http:
        found = http.get("/api/v1/batches", params={"name": name}).json()["data"]
    assert [one["id"] for one in found] == [submitted.stdout.strip()]


def test_failed_requests_are_run_again(client: Command) -> None:
    requests = "\n".join(json.dumps({"custom_id": one, "input": {"do": "fail"}}) for one in "abc")
    submitted = client.call("submit", "-", "--processor", "scripted", "--watch", stdin=requests)
    batch_id = submitted.stdout.split("\n", 1)[0]

    again = client.call("retry", batch_id, "--code", "500", "--request", "a", "--request", "c", "--watch")

    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("run 2: 2 requests again\n")
    assert "completed" in again.stdout
    refused = client.call("retry", batch_id, "--code", "408")
    assert (refused.returncode, "no failed request" in refused.stderr) == (1, True)


def test_what_the_server_refuses_is_told_with_its_place(client: Command) -> None:
    refused = client.call(
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
        (("watch", "00000000-0000-7000-8000-000000000000"), {}, "no such batch (status 404)"),
        (
            ("results", "00000000-0000-7000-8000-000000000000", "--format", "csv"),
            {},
            "no such batch (status 404)",
        ),
        (
            ("results", "00000000-0000-7000-8000-000000000000", "--status", "odd", "--format", "ndjson"),
            {},
            "gristmill: status: must be one of",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(
    client: Command, arguments: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    refused = client.call(*arguments, **environment)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == """""" if False else not refused.stdout


def test_no_cell_of_a_csv_file_runs_as_a_formula(client: Command, tmp_path: Path) -> None:
    formula = '{"custom_id": "=1+1", "input": {"answer": "@SUM(A1)"}}'
    batch_id, *_ = client.call(
        "submit", "-", "--processor", "scripted", "--watch", stdin=formula
    ).stdout.split()
    output = tmp_path / "results.csv"
    assert client.call("results", batch_id, "--format", "csv", "--output", str(output)).returncode == 0
    (row,) = csv.DictReader(io.StringIO(output.read_text(), newline=""))
    assert (row["custom_id"], row["response_content"]) == ("'=1+1", "'@SUM(A1)")
