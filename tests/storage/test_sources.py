"""Documents for processors: whatever the source, a file for the time of a block, or a refusal with a code."""

import os
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from fakes.receiver import Receiver, hang, status
from fakes.s3 import Bucket
from gristmill.domain.outcomes import Failure, Retry
from gristmill.domain.sources import (
    FileSource,
    LocalSource,
    ObjectSource,
    Source,
    SourceRefused,
    UrlSource,
)
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage import sources as module
from gristmill.storage.base import file_key
from gristmill.storage.opening import open_objects, open_storage
from gristmill.storage.sources import Sources

TENANT, OTHER = UUID(int=7), UUID(int=8)


@pytest.fixture
async def sources(tmp_path: Path, root: Path) -> AsyncIterator[Sources]:
    """With the file 1 of the tenant, and a folder that is open to callers."""
    storage = open_storage(Settings(data_dir=tmp_path / "data"))
    names = {(TENANT, UUID(int=1)): "notes.txt", (TENANT, UUID(int=2)): "lost.txt"}

    async def filename(tenant_id: UUID, file_id: UUID) -> str | None:
        return names.get((tenant_id, file_id))

    async def content() -> AsyncIterator[bytes]:
        yield b"the text"

    await storage.put(file_key(TENANT, UUID(int=1)), content())
    async with HttpSession(allow_private=True) as http:
        yield Sources(storage, http, filename, max_bytes=1000, local_root=root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    return root


async def read(sources: Sources, source: Source, tenant_id: UUID = TENANT) -> tuple[str, bytes]:
    async with sources.open(tenant_id, source) as opened:
        assert opened.path.is_file()
        found = opened.filename, opened.path.read_bytes()
    assert not opened.path.exists()
    return found


async def refusal(sources: Sources, source: Source, tenant_id: UUID = TENANT) -> SourceRefused:
    with pytest.raises(SourceRefused) as caught:
        await read(sources, source, tenant_id)
    return caught.value


async def code(sources: Sources, source: Source, tenant_id: UUID = TENANT) -> str:
    return (await refusal(sources, source, tenant_id)).code


# --- files ----------------------------------------------------------------------------------------------------


async def test_a_file_is_opened_for_its_own_tenant_only(sources: Sources) -> None:
    source = FileSource(UUID(int=1))
    assert await read(sources, source) == ("notes.txt", b"the text")
    mine, unknown = await refusal(sources, source, OTHER), await refusal(sources, FileSource(uuid4()))
    assert (mine.code, mine.message) == (unknown.code, unknown.message)
    assert isinstance(mine.outcome(), Failure)


async def test_a_file_whose_bytes_are_gone_is_not_found(sources: Sources) -> None:
    assert await code(sources, FileSource(UUID(int=2))) == "file_not_found"


async def test_a_file_out_of_a_store_is_a_temporary_copy(sources: Sources, bucket: Bucket) -> None:
    stored = replace(sources, storage=open_storage(bucket.settings()))
    bucket.put(f"gristmill/{file_key(TENANT, UUID(int=1))}", b"from the bucket")
    assert await read(stored, FileSource(UUID(int=1))) == ("notes.txt", b"from the bucket")


async def test_a_store_that_is_away_is_another_try(sources: Sources) -> None:
    async with Receiver() as store:
        store.behave(status(403))
        away = replace(
            sources, storage=open_storage(Bucket(store.url.removesuffix("/hook"), "bucket").settings())
        )
        refused = await refusal(away, FileSource(UUID(int=1)))
    assert refused.code == "storage_unavailable"
    outcome = refused.outcome()
    assert isinstance(outcome, Retry)
    assert outcome.error.code == 500


# --- URLs -----------------------------------------------------------------------------------------------------


async def test_a_url_is_fetched(sources: Sources) -> None:
    async with Receiver() as server:
        server.behave(status(302, Location="/a/report.pdf"), status(200, b"%PDF-"))
        assert await read(sources, UrlSource(server.url)) == ("report.pdf", b"%PDF-")


async def test_blocked_refused_and_timed_out_look_the_same(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "URL_SECONDS", 0.3)
    async with Receiver() as slow, HttpSession(allow_private=False) as guarded:
        slow.behave(hang())
        async with Receiver() as gone:
            pass
        found = [
            await refusal(sources, UrlSource(slow.url)),
            await refusal(sources, UrlSource(gone.url)),
            await refusal(sources, UrlSource("file:///etc/passwd")),
            await refusal(sources, UrlSource("http://no-such-name.invalid/")),
            await refusal(replace(sources, http=guarded), UrlSource("https://127.0.0.1/")),
            await refusal(replace(sources, http=guarded), UrlSource("https://169.254.169.254/latest/")),
        ]
    assert {(one.code, one.message, one.suggestion, one.retryable, one.status) for one in found} == {
        ("url_unreachable", "The URL could not be fetched.", found[0].suggestion, True, None)
    }


@pytest.mark.parametrize(
    ("answer", "retried"), [(404, False), (403, False), (429, True), (500, True), (503, True)]
)
async def test_a_status_is_told_and_tried_again_where_that_may_help(
    sources: Sources, answer: int, retried: bool
) -> None:
    async with Receiver() as server:
        server.behave(status(answer, b"hush"))
        outcome = (await refusal(sources, UrlSource(server.url))).outcome()
    assert (outcome.error.type, outcome.error.upstream_status) == ("url_status", answer)
    assert isinstance(outcome, Retry) == retried
    assert "hush" not in outcome.error.message


async def test_a_url_with_too_much_behind_it_is_too_large(sources: Sources) -> None:
    async with Receiver() as server:
        server.behave(status(200, b"x" * 1001))
        assert await code(sources, UrlSource(server.url)) == "source_too_large"


# --- local paths ----------------------------------------------------------------------------------------------


async def test_a_path_below_the_root_is_read(sources: Sources, root: Path) -> None:
    (root / "deep" / "a b.txt").write_bytes(b"inside")
    for path in ("deep/a b.txt", "./deep/a b.txt", str(root / "deep" / "a b.txt")):
        assert await read(sources, LocalSource(path)) == ("a b.txt", b"inside")


async def test_the_root_may_be_a_link_of_the_operators(sources: Sources, root: Path, tmp_path: Path) -> None:
    (root / "a.txt").write_bytes(b"inside")
    (tmp_path / "link").symlink_to(root)
    linked = replace(sources, local_root=tmp_path / "link")
    assert await read(linked, LocalSource("a.txt")) == ("a.txt", b"inside")


async def test_without_a_root_no_path_is_read(sources: Sources) -> None:
    refused = await refusal(replace(sources, local_root=None), LocalSource("a.txt"))
    assert refused.code == "source_refused"
    assert "GRISTMILL_LOCAL_ROOT" in (refused.suggestion or "")


@pytest.fixture
def traps(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("hush")
    (root / "link").symlink_to(outside / "secret")
    (root / "folder-link").symlink_to(outside)
    (root / "deep" / "up").symlink_to("..")
    (root / "plain").write_text("x")
    os.mkfifo(root / "fifo")


@pytest.mark.usefixtures("traps")
@pytest.mark.parametrize(
    "path",
    [
        "link",
        "folder-link/secret",
        "deep/up/plain",
        "../outside/secret",
        "deep/../plain",
        "{root}/../outside/secret",
        "{outside}/secret",
        "/etc/passwd",
        "deep",
        "fifo",
        "plain/x",
        "",
        ".",
        "/",
        "{root}",
        "a\0b",
        "{root}x/secret",
        "x" * 5000,
    ],
)
async def test_a_path_that_leads_elsewhere_is_refused(
    sources: Sources, root: Path, tmp_path: Path, path: str
) -> None:
    given = path.format(root=root, outside=tmp_path / "outside")
    assert await code(sources, LocalSource(given)) == "source_refused"


async def test_a_path_to_nothing_and_a_path_to_too_much_are_told_apart(sources: Sources, root: Path) -> None:
    (root / "large").write_bytes(b"x" * 1001)
    assert await code(sources, LocalSource("deep/none.txt")) == "source_not_found"
    assert await code(sources, LocalSource("none/none.txt")) == "source_not_found"
    assert await code(sources, LocalSource("large")) == "source_too_large"


async def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    sources: Sources, root: Path, tmp_path: Path
) -> None:
    """Somebody who may write below the root swaps a folder and a link all the time."""
    (root / "deep" / "x").write_bytes(b"inside")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "deep").rename(root / "away")
            (root / "deep").symlink_to(outside)
            (root / "deep").unlink()
            (root / "away").rename(root / "deep")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(300):
            try:
                seen.add((await read(sources, LocalSource("deep/x")))[1])
            except SourceRefused as refused:
                seen.add(refused.code.encode())
    finally:
        stop.set()
        swapping.join()
    assert b"outside" not in seen
    assert seen & {b"source_refused", b"source_not_found"}, "the swaps were never met"


# --- objects --------------------------------------------------------------------------------------------------


@pytest.fixture
def objects(sources: Sources, bucket: Bucket) -> Sources:
    """The whole bucket is open; uploads are in it, too."""
    bucket.put("attachments/a b ü.pdf", b"object")
    bucket.put("files/mine.txt", b"not an upload")
    bucket.put(f"gristmill/{file_key(OTHER, UUID(int=1))}", b"hush")
    settings = bucket.settings(s3_root=f"s3://{bucket.name}")
    return replace(sources, objects=open_objects(settings), storage=open_storage(settings))


async def test_an_object_is_read_by_its_key(objects: Sources, bucket: Bucket) -> None:
    for key in (
        "attachments/a b ü.pdf",
        "/attachments/a b ü.pdf",
        f"s3://{bucket.name}/attachments/a b ü.pdf",
    ):
        assert await read(objects, ObjectSource(key)) == ("a b ü.pdf", b"object")
    assert await read(objects, ObjectSource("files/mine.txt")) == ("mine.txt", b"not an upload")


async def test_a_prefix_bounds_what_may_be_named(sources: Sources, bucket: Bucket) -> None:
    bucket.put("open/a.txt", b"open")
    bucket.put("openly/b.txt", b"hush")
    settings = Settings(
        **{**bucket.settings().model_dump(), "storage_url": None, "s3_root": f"s3://{bucket.name}/open"}
    )
    below = replace(sources, objects=open_objects(settings))
    assert await read(below, ObjectSource("a.txt")) == ("a.txt", b"open")
    assert await read(below, ObjectSource(f"s3://{bucket.name}/open/a.txt")) == ("a.txt", b"open")
    for key in (f"s3://{bucket.name}/openly/b.txt", "../openly/b.txt", "s3://other/open/a.txt"):
        assert await code(below, ObjectSource(key)) == "source_refused"


@pytest.mark.parametrize(
    "key",
    [
        "gristmill/files/{other}/00000000-0000-0000-0000-000000000001",
        "s3://{bucket}/gristmill/files/{other}/00000000-0000-0000-0000-000000000001",
        "gristmill/files",
        "gristmill/./files/{other}/00000000-0000-0000-0000-000000000001",
        "gristmill//files/{other}/00000000-0000-0000-0000-000000000001",
        "x/../gristmill/files/{other}/00000000-0000-0000-0000-000000000001",
        "gristmill/files/{other}/00000000-0000-0000-0000-000000000001\0",
        "",
        "/",
        "s3://{bucket}",
        "s3://{bucket}/",
    ],
)
async def test_uploads_of_other_tenants_are_no_objects(objects: Sources, bucket: Bucket, key: str) -> None:
    given = key.format(other=OTHER, bucket=bucket.name)
    assert await code(objects, ObjectSource(given)) == "source_refused"


async def test_objects_that_are_not_there_too_large_or_not_open(objects: Sources, bucket: Bucket) -> None:
    bucket.put("large", b"x" * 1001)
    assert await code(objects, ObjectSource("none")) == "source_not_found"
    assert await code(objects, ObjectSource("large")) == "source_too_large"
    refused = await refusal(replace(objects, objects=None), ObjectSource("large"))
    assert (refused.code, "GRISTMILL_S3_ROOT" in (refused.suggestion or "")) == ("source_refused", True)


async def test_nothing_of_a_source_is_quoted(sources: Sources, root: Path) -> None:
    for source in (UrlSource("https://hush.invalid/hush"), LocalSource("hush"), ObjectSource("hush")):
        refused = await refusal(sources, source)
        assert "hush" not in f"{refused.message} {refused.suggestion}"
    shutil.rmtree(root)
    assert "root" not in (await refusal(sources, LocalSource("hush"))).message


# --- a look ---------------------------------------------------------------------------------------------------


async def looked(sources: Sources, source: Source) -> str | None:
    try:
        await sources.look(source)
    except SourceRefused as refused:
        return refused.code
    return None


async def test_a_look_finds_what_could_be_opened_and_refuses_what_could_not(
    objects: Sources, bucket: Bucket, root: Path, tmp_path: Path
) -> None:
    (root / "there.txt").write_bytes(b"x" * 10)
    (root / "large.txt").write_bytes(b"x" * 1001)
    (root / "link.txt").symlink_to(root / "there.txt")
    bucket.put("documents/there.txt", b"x")
    async with Receiver() as receiver:
        expected = {
            LocalSource("there.txt"): None,
            LocalSource("missing.txt"): "source_not_found",
            LocalSource("large.txt"): "source_too_large",
            LocalSource("link.txt"): "source_refused",
            LocalSource("deep"): "source_refused",
            LocalSource("../data"): "source_refused",
            ObjectSource("documents/there.txt"): None,
            ObjectSource("documents/missing.txt"): "source_not_found",
            ObjectSource("documents/../there.txt"): "source_refused",
            UrlSource(receiver.url): None,
            FileSource(UUID(int=1)): "file_not_found",
        }
        assert {source: await looked(objects, source) for source in expected} == expected
        receiver.behave(status(404))
        assert await looked(objects, UrlSource(receiver.url)) == "url_status"
    assert await looked(replace(objects, local_root=None), LocalSource("there.txt")) == "source_refused"
    assert (
        await looked(replace(objects, objects=None), ObjectSource("documents/there.txt")) == "source_refused"
    )
