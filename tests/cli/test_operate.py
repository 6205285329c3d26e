"""The operator's commands, beside a service or alone."""

import asyncio
import subprocess
import sys
import time
from uuid import UUID

import asyncpg
import pytest

from command import Command
from gristmill.db import connect_options

pytestmark = pytest.mark.slow


def test_keys_are_made_listed_and_revoked(gristmill_on: Command) -> None:
    made = gristmill_on.call(
        "keys", "create", "for scripts", "--tenant", "acme", "--scope", "batches:read", "--days", "7"
    )
    assert made.returncode == 0, made.stderr
    key, key_id = made.stdout.strip(), made.stderr.split(":")[0]
    with gristmill_on.serve("--no-worker", GRISTMILL_API_KEY="gm_another-key-for-this-test") as running:
        with running.client(key) as client:
            assert client.get("/api/v1/batches").status_code == 200
            assert client.get("/api/v1/agents").status_code == 403
        listed = gristmill_on.call("keys", "list", COLUMNS="80").stdout
        assert "for scripts of tenant acme" in listed
        assert key_id in listed
        assert key not in listed
        assert gristmill_on.call("keys", "revoke", key_id).returncode == 0
        with running.client(key) as client:
            end = time.monotonic() + 10
            while client.get("/api/v1/batches").status_code != 401:
                assert time.monotonic() < end
        assert running.stop() == 0
    assert "revoked" in gristmill_on.call("keys", "list").stdout
    revoked, made = gristmill_on.call("keys", "log").stdout.splitlines()
    assert f"api_key.revoked {key_id} 'for scripts' of tenant 'acme', by command_line" in revoked
    assert f"api_key.created {key_id}" in made
    again = gristmill_on.call("keys", "revoke", key_id)
    assert again.returncode == 1
    assert "revoked before" in again.stderr


def test_limits_are_set_listed_removed_and_noted(gristmill_on: Command) -> None:
    assert gristmill_on.call("limits", "list").stdout == "Nothing is limited.\n"
    made = gristmill_on.call("limits", "set", "upstream", "model", "--in-flight", "1000", "--tokens", "90000")
    assert made.stdout == "upstream model: 1,000 in flight, 90,000 tokens a minute\n", made.stderr
    listed = gristmill_on.call("limits", "list").stdout
    assert listed == "upstream model: 1,000 in flight, 90,000 tokens a minute; 0 in flight\n"
    for wrong in (
        ["tenant", "nobody", "--in-flight", "5"],
        ["upstream", "model"],
        ["upstream", "x", "--tokens", "1"],
        ["upstream", "https://example.com/hook", "--tokens", "1"],
        ["processor", "nothing", "--in-flight", "1"],
    ):
        refused = gristmill_on.call("limits", "set", *wrong)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Traceback" not in refused.stderr
    assert gristmill_on.call("limits", "remove", "upstream", "model").stdout == "Removed.\n"
    assert gristmill_on.call("limits", "remove", "upstream", "model").returncode == 1
    removed, noted = gristmill_on.call("keys", "log").stdout.splitlines()
    assert "limit.removed" in removed
    assert "limit.set" in noted


def test_an_unknown_scope_is_refused_with_the_known_ones(gristmill_on: Command) -> None:
    refused = gristmill_on.call("keys", "create", "x", "--scope", "everything")
    assert refused.returncode == 1
    assert "batches:read" in refused.stderr


def test_keys_can_be_made_before_the_first_start(gristmill: Command) -> None:
    key = gristmill.call("keys", "create", "mine").stdout.strip()
    with gristmill.serve() as running:
        assert running.new_key is None
        with running.client(key) as client:
            assert client.get("/api/v1/agents").status_code == 200
        assert running.stop() == 0


def test_the_audit_tells_which_batch_breaks_which_rule(gristmill_on: Command) -> None:
    fine = gristmill_on.call("audit")
    assert (fine.returncode, fine.stdout) == (0, "All invariants hold.\n")
    batch_id = asyncio.run(_break_a_counter(gristmill_on.environment["GRISTMILL_DATABASE_URL"]))
    broken = gristmill_on.call("audit")
    assert broken.returncode == 1
    assert f"{batch_id}: counters equal the results" in broken.stdout


def test_the_command_line_starts_without_what_it_does_not_need() -> None:
    code = "import sys, gristmill.__main__; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "typer" in loaded
    assert not {"fastapi", "sqlalchemy", "pydantic", "asyncpg", "aiohttp", "uvicorn"} & set(loaded)


async def _break_a_counter(url: str) -> UUID:
    connection = await asyncpg.connect(**connect_options(url))
    batch_id: UUID = await connection.fetchval(
        "INSERT INTO batch_count (batch_id, total, success) VALUES (gen_random_uuid(), 1, 1) RETURNING batch_id"
    )
    await connection.close()
    return batch_id
