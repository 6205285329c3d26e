"""A directory filled from a zip file: checked before it is unpacked, all of it or nothing."""

import io
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.s3 import Bucket
from gristmill.api import archive
from gristmill.db import Database
from gristmill.settings import Settings
from service import Caller, code_of, problems

DIRECTORIES = "/api/v1/directories"
FILES = "/api/v1/files"


def on_disk(root: Path) -> list[Path]:
    return [one for one in root.rglob("*") if one.is_file()]


def info(name: str, **fields: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.filename = made.orig_filename = name
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, data in members:
            file.writestr(info(name) if isinstance(name, str) else name, data, compress_type=method)
    return made.getvalue()


DOCX = packed(("[Content_Types].xml", b"<x/>"), ("word/document.xml", b"<x/>"))


async def unpack(caller: Caller, directory: str, data: bytes) -> httpx2.Response:
    return await caller.post(f"{DIRECTORIES}/{directory}/zip", content=data)


async def test_each_member_becomes_a_file(caller: Caller, settings: Settings, database: Database) -> None:
    data = packed(
        ("docs/", b""),
        ("docs/a.md", b"# a"),
        ("docs/deep\\b.csv", b"a,b\n1,2\n"),
        ("Ünïcödé.txt", "Grüße".encode()),
        ("empty.txt", b""),
        ("__MACOSX/._a", b"junk"),
        ("docs/.DS_Store", b"junk"),
        ("report.docx", DOCX),
    )
    directory = await caller.directory(await caller.upload(b"x", "before.txt"))
    answer = await unpack(caller, directory, data)
    assert (answer.status_code, answer.json()["data"]["files"]) == (201, 6)
    entries = await caller.data(f"{DIRECTORIES}/{directory}/files")
    assert {one["name"]: (one["file"]["filename"], one["file"]["bytes"]) for one in entries} == {
        "before.txt": ("before.txt", 1),
        "docs/a.md": ("a.md", 3),
        "docs/deep/b.csv": ("b.csv", 8),
        "Ünïcödé.txt": ("Ünïcödé.txt", 7),
        "empty.txt": ("empty.txt", 0),
        "report.docx": ("report.docx", len(DOCX)),
    }
    found = {one["name"]: one["file"] for one in entries}
    assert found["report.docx"]["media_type"].endswith("wordprocessingml.document")
    assert found["docs/deep/b.csv"]["records"] == 2
    content = await caller.get(f"{FILES}/{found['docs/a.md']['id']}/content")
    assert content.content == b"# a"
    assert (await caller.get(f"{FILES}/{found['empty.txt']['id']}/content")).content == b""
    assert len(on_disk(settings.data_dir)) == 6
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM file_discard") == 0


async def test_it_may_come_as_a_form(caller: Caller) -> None:
    directory = await caller.directory()
    files = {"file": ("a.zip", packed(("a.txt", b"x")))}
    assert (await caller.post(f"{DIRECTORIES}/{directory}/zip", files=files)).status_code == 201


async def refused(caller: Caller, settings: Settings, data: bytes) -> dict[str, str]:
    """What is said; and that nothing is left."""
    directory = await caller.directory()
    found = problems(await unpack(caller, directory, data))
    assert await caller.data(f"{DIRECTORIES}/{directory}/files") == []
    assert await caller.data(FILES) == []
    assert on_disk(settings.data_dir) == []
    return found


def symbolic_link() -> zipfile.ZipInfo:
    return info("link", external_attr=(stat.S_IFLNK | 0o777) << 16)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../x", "unsafe_path"),
        ("a/../../x", "unsafe_path"),
        ("..\\x", "unsafe_path"),
        ("a/./x", "unsafe_path"),
        ("a//x", "unsafe_path"),
        ("/etc/passwd", "absolute_path"),
        ("\\x", "absolute_path"),
        ("C:\\x", "absolute_path"),
        ("c:x", "absolute_path"),
        ("a\x1b[2J", "unsafe_path"),
        ("a\nb", "unsafe_path"),
        ("good.txt\0.exe", "unsafe_path"),
        ("x" * 257, "path_too_long"),
        ("a/" * 600 + "x", "path_too_long"),
        ("a/" * 32 + "x", "path_too_long"),
        ("more.zip", "nested_archive"),
        ("more.tar.GZ", "nested_archive"),
        ("A.TXT", "duplicate_path"),
    ],
)
async def test_a_bad_path_refuses_the_whole_archive(
    caller: Caller, settings: Settings, name: str, code: str
) -> None:
    assert await refused(caller, settings, packed(("a.txt", b"x"), (name, b"y"))) == {"/1": code}


async def test_everything_that_is_wrong_is_said_at_once(caller: Caller, settings: Settings) -> None:
    data = packed(
        ("a.txt", b"x"), ("../b", b"x"), ("/c", b"x"), (symbolic_link(), b"/etc/passwd"), ("A.txt", b"x")
    )
    assert await refused(caller, settings, data) == {
        "/1": "unsafe_path",
        "/2": "absolute_path",
        "/3": "not_a_file",
        "/4": "duplicate_path",
    }


def patched(data: bytes, change: Callable[[bytearray, int], None], nth: int = 0) -> bytes:
    """With the n-th record of the archive's directory changed."""
    changed = bytearray(data)
    at = -1
    for _ in range(nth + 1):
        at = changed.index(b"PK\x01\x02", at + 1)
    change(changed, at)
    return bytes(changed)


def encrypted(data: bytearray, at: int) -> None:
    data[at + 8] |= 1


def declared_size(size: int) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, at: int) -> None:
        data[at + 24 : at + 28] = struct.pack("<I", size)

    return change


def without_method(data: bytearray, at: int) -> None:
    data[at + 10 : at + 12] = struct.pack("<H", 99)


def elsewhere(data: bytearray, at: int) -> None:
    data[at + 42 : at + 46] = struct.pack("<I", 0)


TEXT = b"".join(b"%d " % random.Random(7).randrange(10**9) for _ in range(1000))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", {"": "invalid_zip"}),
        (b"PK", {"": "invalid_zip"}),
        (b"garbage" * 1000, {"": "invalid_zip"}),
        (packed(("a.txt", TEXT))[:-30], {"": "invalid_zip"}),
        (packed(("a.txt", TEXT))[20:], {"/0": "invalid_zip"}),
        (packed(), {"": "empty_archive"}),
        (packed(("folder/", b"")), {"": "empty_archive"}),
        (patched(packed(("a.txt", TEXT)), encrypted), {"/0": "encrypted"}),
        (patched(packed(("a.txt", TEXT)), without_method), {"/0": "unsupported_compression"}),
        (packed(("a.txt", TEXT), method=zipfile.ZIP_LZMA), {"/0": "unsupported_compression"}),
        (packed(("a.txt", TEXT), method=zipfile.ZIP_BZIP2), {"/0": "unsupported_compression"}),
        (patched(packed(("a.txt", TEXT)), declared_size(10)), {"/0": "invalid_zip"}),
        (patched(packed(("a.txt", TEXT)), declared_size(20_000)), {"/0": "invalid_zip"}),
        (patched(packed(("a.txt", TEXT), ("b.txt", b"y")), elsewhere, 1), {"/1": "invalid_zip"}),
        (packed(("a.txt", TEXT)).replace(zlib.compress(TEXT)[2:40], bytes(38)), {"/0": "invalid_zip"}),
        (packed(("a.txt", b"x"), ("b.bin", b"\x1f\x8b\x08" + TEXT)), {"/1": "nested_archive"}),
        (packed(("a.txt", bytes(3 << 20))), {"": "archive_too_complex", "/0": "archive_too_complex"}),
    ],
)
async def test_a_bad_archive_leaves_nothing(
    caller: Caller, settings: Settings, data: bytes, found: dict[str, str]
) -> None:
    assert await refused(caller, settings, data) == found


async def test_an_archive_in_an_archive_is_refused_whatever_it_is_called(
    caller: Caller, settings: Settings
) -> None:
    data = packed(("a.txt", b"x"), ("b.pdf", packed(("c.txt", b"y"))))
    assert await refused(caller, settings, data) == {"/1": "nested_archive"}


async def test_a_member_that_breaks_takes_those_before_it_along(
    caller: Caller, settings: Settings, database: Database
) -> None:
    good = [(f"{n}.txt", TEXT) for n in range(20)]
    data = packed(*good, ("bad.txt", TEXT[::-1]))
    broken = data.replace(zlib.compress(TEXT[::-1])[2:40], bytes(38))
    assert broken != data
    assert await refused(caller, settings, broken) == {"/20": "invalid_zip"}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM file_discard") == 0


async def test_too_many_members_are_refused(
    caller: Caller, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    assert await refused(caller, settings, packed(*((f"{n}", b"x") for n in range(4)))) == {
        "": "too_many_members"
    }
    hidden = bytearray(packed(*((f"{n}", b"x") for n in range(4))))
    hidden[-12:-10] = hidden[-14:-12] = struct.pack("<H", 1)  # the end says there is but one
    assert "" in await refused(caller, settings, bytes(hidden))


def test_a_directory_that_would_fill_the_memory_is_not_read() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for n in range(9000):
            file.writestr(f"{n}", b"")
            file.filelist[-1].comment = b"x" * 3000
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="too large"):
            archive.Archive(data, 10**9)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


class TestSmall:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"upload_max_bytes": 20_000})

    async def test_what_unpacks_to_too_much_is_refused(self, caller: Caller, settings: Settings) -> None:
        data = packed(("a", b"x" * 15_000), ("b", b"y" * 6_000))
        assert await refused(caller, settings, data) == {"": "archive_too_large"}
        data = packed(("a", b"x" * 20_001))
        assert await refused(caller, settings, data) == {"": "archive_too_large", "/0": "member_too_large"}

    async def test_what_is_packed_to_too_much_is_413(self, caller: Caller, settings: Settings) -> None:
        data = packed(
            ("a", TEXT + TEXT), ("b", random.Random(7).randbytes(20_000)), method=zipfile.ZIP_STORED
        )
        assert code_of(await unpack(caller, await caller.directory(), data), 413) == "too_large"
        assert on_disk(settings.data_dir) == []


class TestInAStore:
    @pytest.fixture
    def settings(self, bucket: Bucket, tmp_path: Path) -> Settings:
        return bucket.settings(data_dir=tmp_path, host="127.0.0.1", port=8000)

    async def test_all_of_an_archive_is_in_the_bucket_or_nothing(
        self, caller: Caller, bucket: Bucket
    ) -> None:
        large = random.Random(7).randbytes(10 << 20)
        data = packed(("a.txt", TEXT), ("large.bin", large), ("c.txt", TEXT[::-1]))
        broken = data.replace(zlib.compress(TEXT[::-1])[2:40], bytes(38))
        directory = await caller.directory()
        assert problems(await unpack(caller, directory, broken)) == {"/2": "invalid_zip"}
        assert (bucket.keys(), bucket.broken_off()) == ([], [])
        assert (await unpack(caller, directory, data)).status_code == 201
        assert len(bucket.keys()) == 3


async def test_changed_archives_never_make_a_500(caller: Caller, settings: Settings) -> None:
    """200 archives with random bytes changed, seed 7."""
    rng = random.Random(7)
    good = packed(("docs/a.md", TEXT), ("b.csv", b"a,b\n" * 50), ("ü.txt", b"x"))
    directory = await caller.directory()
    for _ in range(200):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        answer = await unpack(caller, directory, bytes(data))
        assert answer.status_code in {201, 400}, answer.text
    stored = await caller.get(f"{FILES}?limit=1")
    assert len(on_disk(settings.data_dir)) == stored.json()["pagination"]["total_records"]
