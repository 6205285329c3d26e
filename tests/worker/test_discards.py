"""Files whose time is over, and bytes that belong to no file, go; nothing else does."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

import factories
from factories import TENANT
from fakes.s3 import Bucket
from gristmill.db import Database
from gristmill.domain.ids import uuid7
from gristmill.settings import Settings
from gristmill.storage.base import Storage, file_key
from gristmill.storage.opening import open_storage
from gristmill.store import directories, files
from gristmill.store.files import NewFile
from gristmill.worker.discards import Discards


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(Settings(data_dir=tmp_path))


def left(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.rglob("*") if one.is_file())


async def content() -> AsyncIterator[bytes]:
    yield b"x"


async def put(database: Database, storage: Storage, count: int = 1) -> list[UUID]:
    """Bytes on their way to becoming files."""
    ids = [uuid7() for _ in range(count)]
    async with database.engine.begin() as connection:
        await files.expect(connection, TENANT, ids)
    for file_id in ids:
        await storage.put(file_key(TENANT, file_id), content())
    return ids


async def add(database: Database, storage: Storage, count: int = 1, days: int | None = None) -> list[UUID]:
    ids = await put(database, storage, count)
    news = [NewFile(one, "a.txt", "text/plain", 1, b"") for one in ids]
    async with database.engine.begin() as connection:
        await files.add(connection, TENANT, news, retention_days=days)
    return ids


async def step(database: Database, storage: Storage) -> int:
    """Until nothing is left to do."""
    discards, done = Discards(database, storage), 0
    while found := await discards.step():
        done += found
    return done


async def known(database: Database) -> int:
    async with database.engine.connect() as connection:
        return (await files.page(connection, TENANT, files.Filter(), limit=1, offset=0, before=None))[1]


async def test_a_file_whose_time_is_over_goes_with_its_bytes_and_out_of_its_directory(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    [kept] = await add(database, storage)
    [later] = await add(database, storage, days=30)
    gone = await add(database, storage, 450, days=1)
    async with database.engine.begin() as connection:
        directory = await directories.create(connection, TENANT, "all")
        await directories.add(connection, TENANT, directory.id, dict.fromkeys([kept, later, *gone], "a"))
    assert await step(database, storage) == 0
    await factories.sql(database, "UPDATE file SET expires_at = expires_at - interval '1 day'")
    assert await step(database, storage) == 900
    assert left(tmp_path) == sorted([str(kept), str(later)])
    assert await known(database) == 2
    async with database.engine.connect() as connection:
        assert (await directories.get(connection, TENANT, directory.id)).files == 2


async def test_a_broken_off_upload_goes_when_it_can_no_longer_be_under_way(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    [kept] = await add(database, storage)
    await put(database, storage, 4)
    assert await step(database, storage) == 0
    assert len(left(tmp_path)) == 5
    await factories.sql(database, "UPDATE file_discard SET due_at = due_at - interval '2 days'")
    assert await step(database, storage) == 4
    assert left(tmp_path) == [str(kept)]


async def test_half_written_bytes_of_a_killed_process_go_too(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    [broken] = await put(database, storage)
    path = tmp_path / file_key(TENANT, broken)
    path.rename(path.with_name(f"{broken}.part"))
    await factories.sql(database, "UPDATE file_discard SET due_at = now()")
    assert await step(database, storage) == 1
    assert left(tmp_path) == []


async def test_deleted_files_go_and_only_those_of_their_owner(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    mine = await add(database, storage, 2)
    async with database.engine.begin() as connection:
        assert await files.remove(connection, UUID(int=9), mine) == []
        assert await files.remove(connection, TENANT, mine[:1]) == mine[:1]
    assert await step(database, storage) == 1
    assert left(tmp_path) == [str(mine[1])]


async def test_a_storage_that_is_away_keeps_the_note(
    database: Database, tmp_path: Path, bucket: Bucket
) -> None:
    storage = open_storage(bucket.settings())
    ids = await add(database, storage, 2)
    async with database.engine.begin() as connection:
        await files.remove(connection, TENANT, ids)
    away = open_storage(Bucket("http://127.0.0.1:9", "bucket").settings())
    assert await step(database, away) == 0
    assert len(bucket.keys()) == 2
    assert await step(database, storage) == 2
    assert bucket.keys() == []
