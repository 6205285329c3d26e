"""A pipeline in real processes: a worker that is killed while it forwards, and what the sink and the caller see."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import standardwebhooks

from command import Command, Running, wait_for
from documents.producers import PRODUCERS
from fakes.receiver import Received, Receiver, hang, status
from gristmill.db import Database
from stranger import BATCHES, TERMINAL, until

KEY = "gm_a-key-for-tests-of-pipelines-0000"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HEADER = "Bearer of-the-sink-0123456789"
TEXT = "\n\n".join(f"Paragraph number {n} is about something." for n in range(7))  # a chunk each

pytestmark = pytest.mark.slow


@pytest.fixture
def command(own_database_url: str, tmp_path: Path) -> Command:
    settings = {
        "database_url": own_database_url,
        "secret_key": "a secret key for tests, long enough",
        "api_key": KEY,
        "data_dir": str(tmp_path),
        "lease_seconds": "2",
        "poll_seconds": "0.1",
        "allow_private_addresses": "true",
        "log_level": "debug",
    }
    return Command(
        {f"GRISTMILL_{name.upper()}": value for name, value in settings.items()}, log=tmp_path / "log"
    )


@pytest.fixture
def running(command: Command) -> Iterator[Running]:
    """The API alone."""
    with command.serve("--no-worker") as running:
        yield running


async def make(client: httpx2.AsyncClient, receiver: Receiver) -> str:
    sink = {"url": receiver.url, "secret": SECRET, "headers": {"Authorization": HEADER}}
    body = {
        "processor": "pipeline",
        "config": {
            "sink": sink | {"chunks_per_post": 2, "timeout_seconds": 60},
            "max_characters": 45,
            "new_after": 1,
        },
        "requests": [{"custom_id": "a", "input": {"text": TEXT}}],
    }
    made = await client.post(BATCHES, json=body)
    assert made.status_code == 202, made.text
    return str(made.json()["data"]["id"])


async def over(client: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        batch: dict[str, Any] = (await client.get(f"{BATCHES}/{batch_id}")).json()["data"]
        return batch if batch["status"] in TERMINAL else None

    return await until(ended)


async def result(client: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    [listed] = (await client.get(f"{BATCHES}/{batch_id}/results")).json()["data"]
    one: dict[str, Any] = (await client.get(f"{BATCHES}/{batch_id}/results/a")).json()["data"]
    assert listed == {name: one[name] for name in listed}
    return one


def progress(shown: dict[str, Any]) -> tuple[str, int, int]:
    return shown["stage"], shown["processed_chunks"], shown["total_chunks"]


def chunks(received: Received) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(received.body)["chunks"]
    return found


async def test_a_killed_worker_s_pipeline_goes_on_at_the_stage_it_had_reached(
    command: Command, running: Running, receiver: Receiver, own_database_url: str
) -> None:
    receiver.behave(status(200), hang())
    database = await Database(own_database_url).open()
    async with httpx2.AsyncClient(
        base_url=running.url, headers={"x-api-key": KEY}, timeout=30, trust_env=False
    ) as client:
        batch_id = await make(client, receiver)
        shown = await result(client, batch_id)
        assert (shown["stage"], shown["processed_chunks"]) == ("WAIT_FOR_PROCESSING", None)

        with command.start("worker") as worker:
            await asyncio.to_thread(wait_for, worker, "at work")
            await receiver.until(2)
            assert progress(await result(client, batch_id)) == ("FORWARDING", 2, 7)
            worker.kill()
            await asyncio.to_thread(worker.wait, 30)

        # Whoever processed the text again would now make other chunks.
        other = orjson.dumps({"text": "Something else."}).decode()
        async with database.connection() as connection:
            await connection.execute("UPDATE item SET input = $1", other)
        receiver.behave(status(200))
        with command.start("worker") as worker:
            await asyncio.to_thread(wait_for, worker, "at work")
            batch = await over(client, batch_id)
            worker.terminate()
            await asyncio.to_thread(worker.wait, 30)

        assert (batch["status"], batch["completed_requests"]) == ("completed", 1)
        shown = await result(client, batch_id)
    assert progress(shown) == ("COMPLETED", 7, 7)
    assert (shown["status"], shown["attempt"]) == ("success", 2)
    assert [one["error"]["type"] for one in shown["attempts"]] == ["worker_lost"]

    _each_chunk_arrived_with_one_id(receiver.received, batch_id)
    for received in receiver.received:
        standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)
        assert received.headers["authorization"] == HEADER
    await _no_secret_is_left_in_clear(database, command)
    await database.close()


async def test_a_failed_pipeline_item_that_is_retried_goes_on_where_forwarding_failed(
    command: Command, receiver: Receiver, own_database_url: str
) -> None:
    receiver.behave(status(200), status(400))
    database = await Database(own_database_url).open()
    with command.serve() as running:
        async with httpx2.AsyncClient(
            base_url=running.url, headers={"x-api-key": KEY}, timeout=30, trust_env=False
        ) as client:
            batch_id = await make(client, receiver)
            assert (await over(client, batch_id))["failed_requests"] == 1
            failed = await result(client, batch_id)
            assert (progress(failed), failed["error"]["type"]) == (("FORWARD_FAILED", 2, 7), "sink_refused")

            other = orjson.dumps({"text": "Something else."}).decode()
            async with database.connection() as connection:
                await connection.execute("UPDATE item SET input = $1", other)
            receiver.behave(status(200))
            again = await client.post(f"{BATCHES}/{batch_id}/retry")
            assert (again.status_code, again.json()["data"]["run"]) == (202, 2)
            assert (await over(client, batch_id))["completed_requests"] == 1
            shown = await result(client, batch_id)
    await database.close()
    assert progress(shown) == ("COMPLETED", 7, 7)
    assert [(one["run"], one["error"]["type"]) for one in shown["attempts"]] == [(1, "sink_refused")]
    _each_chunk_arrived_with_one_id(receiver.received, batch_id)


async def test_documents_of_every_source_arrive_at_the_sink_in_chunks(
    command: Command, receiver: Receiver, tmp_path: Path
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name in ("story.docx", "typed.pdf", "scanned.pdf", "encrypted.pdf"):
        PRODUCERS[name](folder / name)
    (folder / "notes.md").write_text("# Notes\n\nThe mill is old.\n\n# More\n\nIt stands by the river.\n")
    (folder / "empty.txt").write_bytes(b"")
    page = b"<html lang=en><h1>A page</h1><p>The wheel turns all day long, and the stone with it."
    receiver.behave(status(200, page, Content_Type="text/html"), path="/page.html")
    with command.serve(GRISTMILL_LOCAL_ROOT=str(folder)) as running:
        async with httpx2.AsyncClient(
            base_url=running.url, headers={"x-api-key": KEY}, timeout=30, trust_env=False
        ) as client:
            uploaded = await client.post(
                "/api/v1/files", files={"file": ("story.docx", (folder / "story.docx").read_bytes())}
            )
            inputs: dict[str, dict[str, Any]] = {
                "docx": {"file_id": uploaded.json()["data"]["id"], "metadata": {"shelf": "3"}},
                "url": {"source": receiver.url.replace("/hook", "/page.html"), "source_type": "url"},
                **{
                    name: {"source": name, "source_type": "local"}
                    for name in (
                        "typed.pdf",
                        "notes.md",
                        "scanned.pdf",
                        "encrypted.pdf",
                        "empty.txt",
                        "none.pdf",
                    )
                },
            }
            body = {
                "processor": "pipeline",
                "config": {"sink": {"url": receiver.url}, "chunking_strategy": "by_title"},
                "requests": [{"custom_id": name, "input": one} for name, one in inputs.items()],
            }
            made = await client.post(BATCHES, json=body)
            assert made.status_code == 202, made.text
            batch_id = made.json()["data"]["id"]
            await over(client, batch_id)
            shown = (await client.get(f"{BATCHES}/{batch_id}/results")).json()["data"]
        assert await asyncio.to_thread(running.stop) == 0

    ended = {one["custom_id"]: (one["stage"], (one["error"] or {}).get("type")) for one in shown}
    assert ended == {
        "docx": ("COMPLETED", None),
        "url": ("COMPLETED", None),
        "typed.pdf": ("COMPLETED", None),
        "notes.md": ("COMPLETED", None),
        "scanned.pdf": ("PROCESS_FAILED", "no_valid_chunks"),
        "encrypted.pdf": ("PROCESS_FAILED", "encrypted"),
        "empty.txt": ("PROCESS_FAILED", "no_valid_chunks"),
        "none.pdf": ("PROCESS_FAILED", "source_not_found"),
    }
    assert all(one["error"]["suggestion"] for one in shown if one["error"] and one["custom_id"] != "none.pdf")
    arrived: dict[str, list[dict[str, Any]]] = {}
    for received in receiver.of("/hook"):
        arrived.setdefault(orjson.loads(received.body)["custom_id"], []).extend(chunks(received))
    assert [one["content"] for one in arrived["notes.md"]] == [
        "# Notes\n\nThe mill is old.",
        "# More\n\nIt stands by the river.",
    ]
    assert [one["metadata"]["heading"] for one in arrived["notes.md"]] == ["Notes", "More"]
    assert {one["metadata"]["page"] for one in arrived["typed.pdf"]} == {"1"}  # where they begin
    assert {one["metadata"]["author"] for one in arrived["docx"]} == {"Ada Miller"}
    assert {one["metadata"]["shelf"] for one in arrived["docx"]} == {"3"}
    assert {one["filename"] for one in arrived["docx"]} == {"story.docx"}
    assert "The wheel turns all day long" in arrived["url"][0]["content"]
    assert [one["language"] for one in arrived["docx"]] == ["en"] * len(arrived["docx"])


def _each_chunk_arrived_with_one_id(posts: list[Received], batch_id: str) -> None:
    assert [[chunk["index"] for chunk in chunks(post)] for post in posts] == [
        [0, 1], [2, 3], [2, 3], [4, 5], [6],
    ]  # fmt: skip
    contents = {(chunk["id"], chunk["content"]) for post in posts for chunk in chunks(post)}
    expected = {(f"{batch_id}-0-{n}", f"Paragraph number {n} is about something.") for n in range(7)}
    assert contents == expected
    repeated = [post for post in posts if chunks(post)[0]["index"] == 2]
    assert (
        len({(post.body, post.headers["idempotency-key"], post.headers["webhook-id"]) for post in repeated})
        == 1
    )


async def _no_secret_is_left_in_clear(database: Database, command: Command) -> None:
    async with database.connection() as connection:
        [(row, secrets)] = await connection.fetch("SELECT batch::text, config_secrets FROM batch")
    assert "**********" in row
    assert secrets
    assert command.log is not None
    for text in (row, command.log.read_text()):
        for secret in (SECRET, HEADER):
            assert secret not in text
            assert secret.encode().hex() not in text
