"""Both storages keep the same promises: a folder, and a real S3 server."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from fakes.receiver import Receiver, status
from fakes.s3 import SECRET, Bucket
from gristmill.settings import Settings
from gristmill.storage.base import Missing, Storage, StorageFailed, file_key
from gristmill.storage.opening import open_objects, open_storage

MIB = 1024 * 1024


@dataclass(frozen=True)
class Kept:
    """A storage, and a look from outside at all that is left in it."""

    storage: Storage
    left: Callable[[], list[str]]


@pytest.fixture(params=["folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        return Kept(open_storage(bucket.settings()), lambda: bucket.keys() + bucket.broken_off())
    return Kept(
        open_storage(Settings(data_dir=tmp_path)),
        lambda: [one.name for one in tmp_path.rglob("*") if one.is_file()],
    )


def new_key() -> str:
    return file_key(uuid4(), uuid4())


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def read(storage: Storage, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in storage.read(key, start, end)])


@pytest.mark.parametrize("size", [0, 1, MIB, 8 * MIB, 8 * MIB + 1, 21 * MIB])
async def test_bytes_come_back_as_they_were_put(kept: Kept, size: int) -> None:
    key = new_key()
    data = bytes(range(251)) * (size // 251 + 1)
    given = [data[at : min(at + 700_001, size)] for at in range(0, size, 700_001)]
    await kept.storage.put(key, pieces(*given))
    assert await read(kept.storage, key) == data[:size]
    assert len(kept.left()) == 1


async def test_a_part_can_be_read(kept: Kept) -> None:
    key = new_key()
    await kept.storage.put(key, pieces(b"0123", b"456789"))
    assert await read(kept.storage, key, 3) == b"3456789"
    assert await read(kept.storage, key, 3, 5) == b"34"
    assert await read(kept.storage, key, 9, 10) == b"9"


async def test_a_key_that_is_taken_gets_the_new_bytes(kept: Kept) -> None:
    key = new_key()
    await kept.storage.put(key, pieces(b"old and longer"))
    await kept.storage.put(key, pieces(b"new"))
    assert await read(kept.storage, key) == b"new"


class _Broken(Exception):
    pass


@pytest.mark.parametrize("mebibytes", [0, 3, 20])
async def test_an_upload_that_breaks_off_leaves_nothing(kept: Kept, mebibytes: int) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        for _ in range(mebibytes):
            yield bytes(MIB)
        raise _Broken

    key = new_key()
    with pytest.raises(_Broken):
        await kept.storage.put(key, breaking())
    assert kept.left() == []
    with pytest.raises(Missing):
        await read(kept.storage, key)


@pytest.mark.parametrize("mebibytes", [3, 20])
async def test_an_upload_that_is_cancelled_leaves_nothing(kept: Kept, mebibytes: int) -> None:
    waiting = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(mebibytes):
            yield bytes(MIB)
        waiting.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(kept.storage.put(new_key(), slow()))
    await asyncio.wait_for(waiting.wait(), 60)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert kept.left() == []


async def test_what_is_deleted_is_missing_and_may_be_deleted_again(kept: Kept) -> None:
    key = new_key()
    await kept.storage.put(key, pieces(b"x"))
    for _ in range(2):
        await kept.storage.delete(key)
        assert kept.left() == []
    with pytest.raises(Missing):
        await read(kept.storage, key)
    with pytest.raises(Missing):
        async with kept.storage.local(key):
            raise AssertionError


async def test_a_local_copy_lasts_for_its_block_even_if_the_bytes_are_deleted_meanwhile(kept: Kept) -> None:
    key = new_key()
    await kept.storage.put(key, pieces(b"the text"))
    async with kept.storage.local(key) as path:
        await kept.storage.delete(key)
        assert path.read_bytes() == b"the text"
    assert not path.exists()
    assert kept.left() == []


async def test_a_local_copy_is_removed_when_its_block_fails(kept: Kept) -> None:
    key = new_key()
    await kept.storage.put(key, pieces(b"x"))
    with pytest.raises(_Broken):
        async with kept.storage.local(key) as path:
            raise _Broken
    assert not path.exists()
    assert len(kept.left()) == 1


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a//b", "a/../b", "a/.", "", "a\0b", "ä", "a/b.txt"])
async def test_what_is_no_key_of_ours_is_never_a_path(kept: Kept, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        await kept.storage.put(key, pieces(b"x"))
    with pytest.raises(ValueError, match="not a key"):
        await kept.storage.delete(key)


async def test_a_broken_off_upload_of_a_killed_process_goes_with_its_key(tmp_path: Path) -> None:
    storage, key = open_storage(Settings(data_dir=tmp_path)), new_key()
    await storage.put(key, pieces(b"x"))
    path = tmp_path / key
    path.rename(path.with_name(f"{path.name}.part"))
    await storage.delete(key)
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == []


_MEMORY = """
import asyncio, resource, sys
from gristmill.__main__ import leave
from gristmill.settings import Settings
from gristmill.storage.base import file_key
from gristmill.storage.opening import open_storage
from uuid import UUID

async def pieces(count):
    for _ in range(count):
        yield bytes(1024 * 1024)

async def main():
    storage, key = open_storage(Settings()), file_key(UUID(int=1), UUID(int=2))
    await storage.put(key, pieces(20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await storage.put(key, pieces(int(sys.argv[1])))
    size = 0
    async for piece in storage.read(key):
        size += len(piece)
    print(size >> 20, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)

asyncio.run(main())
leave(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_large_files_pass_through_in_little_memory(where: str, bucket: Bucket, tmp_path: Path) -> None:
    environment = {"GRISTMILL_DATA_DIR": str(tmp_path), **(bucket.environment() if where == "s3" else {})}
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, "256"], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    size, grown = map(int, done.stdout.split())
    assert size == 256
    assert grown < 48, f"{grown} MiB more for a file of 256 MiB than for one of 20"


# --- a store that is not well ---------------------------------------------------------------------------------


async def failure(storage: Storage) -> str:
    with pytest.raises(StorageFailed) as caught:
        await storage.put(new_key(), pieces(b"x"))
    with pytest.raises(StorageFailed):
        await read(storage, new_key())
    with pytest.raises(StorageFailed):
        await storage.delete(new_key())
    return str(caught.value)


async def test_a_store_that_refuses_us_is_a_failure_that_tells_no_secrets() -> None:
    async with Receiver() as store:
        store.behave(status(403, b"<Error><Code>AccessDenied</Code><Message>hush</Message></Error>"))
        bucket = Bucket(store.url.removesuffix("/hook"), "bucket")
        told = await failure(open_storage(bucket.settings("secret-prefix")))
        assert store.accepted
    for secret in (SECRET, "hush", "secret-prefix", "127.0.0.1"):
        assert secret not in told


async def test_a_store_that_cannot_be_reached_is_a_failure() -> None:
    async with Receiver() as gone:
        pass
    await failure(open_storage(Bucket(gone.url.removesuffix("/hook"), "bucket").settings()))


async def test_a_store_that_breaks_in_the_middle_of_a_large_upload_ends_it() -> None:
    """The rest of the upload is not read, and nobody waits for ever."""
    given = 0

    async def many() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(1000):
            given += 1
            yield bytes(MIB)

    async with Receiver() as store:
        store.behave(status(400))
        storage = open_storage(Bucket(store.url.removesuffix("/hook"), "bucket").settings())
        with pytest.raises(StorageFailed):
            await storage.put(new_key(), many())
    assert given < 100


async def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("in the way")
    storage = open_storage(Settings(data_dir=tmp_path))
    with pytest.raises((StorageFailed, Missing)) as caught:
        await storage.put(new_key(), pieces(b"x"))
    assert str(tmp_path) not in str(caught.value)


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://B", "bucket/prefix", "https://bucket", "s3://bucket/a/../b", "s3://bucket/ä", "s3://a b"],
)
def test_a_url_that_is_none_is_refused_by_the_name_of_its_setting(url: str) -> None:
    with pytest.raises(ValueError, match="GRISTMILL_STORAGE_URL must be s3://"):
        open_storage(Settings(storage_url=url))
    with pytest.raises(ValueError, match="GRISTMILL_S3_ROOT must be s3://"):
        open_objects(Settings(s3_root=url))


def test_without_the_extra_the_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r"GRISTMILL_STORAGE_URL needs the extra: install gristmill\[s3\]"):
        open_storage(Settings(storage_url="s3://bucket"))


def test_without_the_setting_the_library_is_not_even_loaded() -> None:
    code = "import sys; import gristmill.cli.service; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
