"""Several hosts and one store: the API here, a worker there, no folder in common."""

import asyncio
import socket
import time
from pathlib import Path
from uuid import UUID

import httpx2
import pytest

from command import Command, Running, wait_for
from fakes.s3 import Bucket
from gristmill.db import Database
from stranger import Mill, Stranger, arrive

pytestmark = pytest.mark.slow


@pytest.fixture
def sharing(mill: Mill, own_database_url: str, bucket: Bucket, tmp_path: Path) -> Command:
    own = {"GRISTMILL_DATABASE_URL": own_database_url, "GRISTMILL_DATA_DIR": str(tmp_path / "api")}
    return Command(mill.command.environment | own | bucket.environment(), log=tmp_path / "log")


async def test_a_worker_reads_from_the_store_what_the_api_put_there(
    mill: Mill, sharing: Command, own_database_url: str, bucket: Bucket, tmp_path: Path
) -> None:
    database = await Database(own_database_url).open()
    elsewhere = {"GRISTMILL_DATA_DIR": str(tmp_path / "worker")}
    with sharing.serve("--no-worker") as api, sharing.start("worker", **elsewhere) as worker:
        await asyncio.to_thread(wait_for, worker, "at work")
        async with httpx2.AsyncClient(base_url=api.url, timeout=60, trust_env=False) as client:
            stranger = await arrive(Mill(sharing, api, client, database, mill.llm, tmp_path / "log"))
            await _ask_about_a_file(mill, stranger, bucket)
    await database.close()
    assert not (tmp_path / "api" / "files").exists()
    assert not (tmp_path / "worker" / "files").exists()


async def _ask_about_a_file(mill: Mill, stranger: Stranger, bucket: Bucket) -> None:
    file_id = await stranger.upload(b"The mill opens at nine.", "hours.txt")
    assert bucket.keys() == [f"gristmill/files/{UUID(str(stranger.tenant_id))}/{file_id}"]
    request = {"message": "shared: when?", "attached_file_uuids": [file_id]}
    batch = await stranger.ask(await stranger.agent(), request)
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 1
    [asked] = [one for one in mill.llm.requests if "shared: when?" in str(one.body)]
    assert "The mill opens at nine." in str(asked.body["messages"])
    assert (await stranger.send("DELETE", f"/api/v1/files/{file_id}")).status_code == 204
    assert bucket.keys() == []


async def test_an_upload_whose_server_is_killed_is_no_file_and_its_bytes_are_known(
    sharing: Command, own_database_url: str, bucket: Bucket
) -> None:
    key = sharing.environment["GRISTMILL_API_KEY"]
    with sharing.serve("--no-worker") as api:
        await asyncio.to_thread(_half_an_upload, api, key, bucket)
        api.stop(9)
    assert bucket.keys() == []
    with sharing.serve("--no-worker") as again, again.client(key) as client:
        assert client.get("/api/v1/files").json()["data"] == []
    database = await Database(own_database_url).open()
    async with database.connection() as connection:
        [[due_in_days]] = await connection.fetch(
            "SELECT round(extract(epoch FROM due_at - now()) / 86400) FROM file_discard"
        )
    await database.close()
    assert due_in_days == 2


def _half_an_upload(api: Running, key: str, bucket: Bucket) -> None:
    """As far as the first parts being in the store."""
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        request = "POST /api/v1/files?filename=a HTTP/1.1"
        head = f"{request}\r\nHost: x\r\nx-api-key: {key}\r\nContent-Length: 50000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(20_000_000))
        end = time.monotonic() + 60
        while not bucket.broken_off():
            assert time.monotonic() < end, "no part came"
            time.sleep(0.05)


def test_a_storage_that_cannot_be_used_is_said_at_the_start(sharing: Command) -> None:
    for wrong in ("bucket/prefix", "s3://"):
        done = sharing.run("serve", "--port", "0", GRISTMILL_STORAGE_URL=wrong)
        assert done.returncode != 0
        assert "GRISTMILL_STORAGE_URL must be s3://bucket" in done.stderr
        assert "Traceback" not in done.stderr
