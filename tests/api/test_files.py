"""Files: streamed in and out, typed by their bytes, named by ids on disk."""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fakes.receiver import Receiver, reset, status
from fakes.s3 import Bucket
from gristmill.db import Database
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from service import Caller, Service, code_of, problems

FILES = "/api/v1/files"


def on_disk(root: Path) -> list[Path]:
    return [one for one in root.rglob("*") if one.is_file()]


async def test_a_file_comes_back_as_it_was_sent(caller: Caller, settings: Settings) -> None:
    content = bytes(range(256)) * 20_000
    made = await caller.post(FILES, files={"file": ("data.bin", content)})
    assert made.status_code == 201
    data = made.json()["data"]
    assert (data["filename"], data["bytes"], data["media_type"]) == (
        "data.bin",
        len(content),
        "application/octet-stream",
    )
    assert data["sha256"] == hashlib.sha256(content).hexdigest()
    assert await caller.data(f"{FILES}/{data['id']}") == data
    answer = await caller.get(f"{FILES}/{data['id']}/content")
    assert answer.content == content
    [path] = on_disk(settings.data_dir)
    assert path == settings.data_dir / "files" / str(caller.tenant_id) / data["id"]
    assert path.stat().st_mode & 0o077 == 0


async def test_the_body_may_be_the_file_itself(caller: Caller) -> None:
    made = await caller.post(f"{FILES}?filename=notes.md", content=b"# Notes")
    assert (made.json()["data"]["filename"], made.json()["data"]["media_type"]) == (
        "notes.md",
        "text/markdown",
    )
    assert problems(await caller.post(FILES, content=b"# Notes")) == {"filename": "missing"}


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.txt", b"hello", "text/plain"),
        ("a.exe", "Grüße".encode(), "text/plain"),
        ("a.md", b"# a", "text/markdown"),
        ("a.CSV", b"a,b", "text/csv"),
        ("a.json", b"{}", "application/json"),
        ("a.txt", b"\x89PNG\r\n\x1a\n...", "image/png"),
        ("a.txt", b"\xff\xd8\xff\xe0...", "image/jpeg"),
        ("a", b"GIF89a...", "image/gif"),
        ("a", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("a", b"RIFF\0\0\0\0WAVEfmt ", "application/octet-stream"),
        ("a.png", b"%PDF-1.7", "application/pdf"),
        ("a.txt", b"PK\x03\x04...", "application/zip"),
        ("a.txt", b"hello\0world", "application/octet-stream"),
        ("a.txt", b"caf\xe9", "application/octet-stream"),
        ("a.txt", b"cut short \xf0\x9f\x94", "application/octet-stream"),
    ],
)
async def test_the_type_is_told_by_the_bytes(
    caller: Caller, name: str, content: bytes, media_type: str
) -> None:
    file_id = await caller.upload(content, name)
    assert (await caller.data(f"{FILES}/{file_id}"))["media_type"] == media_type


async def test_text_is_checked_across_the_pieces_of_a_body(caller: Caller) -> None:
    file_id = await caller.upload("€".encode() * 700_000)
    assert (await caller.data(f"{FILES}/{file_id}"))["media_type"] == "text/plain"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\notes.txt", "notes.txt"),
        ("/etc/cron.d/x", "x"),
        ("Ünïcödé 🔑.txt", "Ünïcödé 🔑.txt"),
        ("a" * 256, "a" * 256),
    ],
)
async def test_a_name_is_never_a_path(caller: Caller, settings: Settings, given: str, kept: str) -> None:
    made = await caller.post(FILES, params={"filename": given}, content=b"x")
    if len(given) <= 256:
        assert made.json()["data"]["filename"] == kept
        [path] = on_disk(settings.data_dir)
        assert path.name == made.json()["data"]["id"]


async def test_a_download_never_opens_in_a_page_of_ours(caller: Caller) -> None:
    file_id = await caller.upload(b"<script>alert(1)</script>", 'a";\r\nX: y.html')
    answer = await caller.get(f"{FILES}/{file_id}/content")
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''a")
    assert "x" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_part_of_a_file_can_be_had(caller: Caller) -> None:
    file_id = await caller.upload(b"0123456789")
    answer = await caller.get(f"{FILES}/{file_id}/content", headers={"range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")


@pytest.mark.parametrize(
    "asked", ["bytes=9-2", "bytes=99-", "bytes=x", "furlongs=1-2", "bytes=0-0,2-2", "", "bytes=-1"]
)
async def test_a_range_that_is_not_understood_gets_the_whole(caller: Caller, asked: str) -> None:
    file_id = await caller.upload(b"0123456789")
    answer = await caller.get(f"{FILES}/{file_id}/content", headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


async def test_files_are_listed_newest_first_and_deleted_with_their_bytes(
    caller: Caller, settings: Settings
) -> None:
    ids = [await caller.upload(b"x") for _ in range(3)]
    assert [one["id"] for one in await caller.data(FILES)] == ids[::-1]
    for file_id in ids:
        assert (await caller.send("DELETE", f"{FILES}/{file_id}")).status_code == 204
        assert (await caller.get(f"{FILES}/{file_id}")).status_code == 404
        assert (await caller.send("DELETE", f"{FILES}/{file_id}")).status_code == 404
    assert on_disk(settings.data_dir) == []


async def test_a_file_whose_bytes_are_gone_is_not_read(caller: Caller, settings: Settings) -> None:
    file_id = await caller.upload(b"x")
    [path] = on_disk(settings.data_dir)
    path.unlink()
    assert code_of(await caller.get(f"{FILES}/{file_id}/content"), 404) == "not_found"


BOUNDARY = "multipart/form-data; boundary=b"


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


FILE = 'Content-Disposition: form-data; name="file"; filename="a.txt"'


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        (BOUNDARY, b"", "invalid_multipart"),
        (BOUNDARY, b"garbage", "invalid_multipart"),
        (BOUNDARY, form((FILE, b"x"), end=b""), "invalid_multipart"),
        (BOUNDARY, b"--b--\r\n", "missing"),
        ("multipart/form-data", form((FILE, b"x")), "invalid_multipart"),
        ("multipart/form-data; boundary=" + "b" * 300, form((FILE, b"x")), "invalid_multipart"),
        (BOUNDARY, form((FILE, b"x"), (FILE, b"y")), "too_many_files"),
        (BOUNDARY, form(('Content-Disposition: form-data; name="purpose"', b"batch")), "unknown_field"),
        (BOUNDARY, form(('Content-Disposition: form-data; name="file"', b"x")), "unknown_field"),
        (BOUNDARY, form(("X: y", b"x")), "unknown_field"),
        (BOUNDARY, form((FILE, b"")), "empty_file"),
        (BOUNDARY, form((FILE.replace("a.txt", ""), b"x")), "missing"),
        (BOUNDARY, form((FILE.replace("a.txt", "x" * 257), b"x")), "string_too_long"),
        (BOUNDARY, form((FILE + "\r\nX: " + "y" * 100_000, b"x")), "invalid_multipart"),
    ],
)
async def test_a_form_that_is_not_one_file_is_refused_and_leaves_nothing(
    caller: Caller, settings: Settings, content_type: str, body: bytes, code: str
) -> None:
    answer = await caller.post(FILES, content=body, headers={"content-type": content_type})
    assert code_of(answer, 400) == code
    assert on_disk(settings.data_dir) == []
    assert await caller.data(FILES) == []


async def test_lines_and_records_are_counted_on_the_way(caller: Caller) -> None:
    for name, content, lines, records in [
        ("a.jsonl", b'{"a": 1}\n\n{"a": 2}\r\n  \n{"a": 3}', 3, None),
        ("a.csv", b'\xef\xbb\xbfid,text\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,x\r\n', 4, 3),
        ("a.csv", "id;text\n1;Mühle\n".encode("latin-1"), 2, 2),
        ("a.pdf", b"%PDF-1.7\nx\n", None, None),
    ]:
        found = await caller.data(f"{FILES}/{await caller.upload(content, name)}")
        assert (found["lines"], found["records"]) == (lines, records), name
    many = b"".join(b'%d,"a\nb"\n' % n for n in range(200_000))
    found = await caller.data(f"{FILES}/{await caller.upload(many, 'many.csv')}")
    assert (found["lines"], found["records"]) == (400_000, 200_000)


async def test_files_are_found_by_name_type_purpose_and_time(caller: Caller) -> None:
    first = await caller.upload(b"x", "Report_1.txt")
    made = await caller.post(f"{FILES}?filename=b.csv&purpose=batch", content=b"a,b")
    second = made.json()["data"]
    assert second["purpose"] == "batch"
    for query, found in [
        ("filename=report", [first]),
        ("filename=REPORT_", [first]),
        ("filename=t_1%25", []),
        ("filename=%", []),
        ("media_type=text/csv", [second["id"]]),
        ("purpose=batch", [second["id"]]),
        ("purpose=bat", []),
        (f"created_after={second['created_at']}", [second["id"]]),
        (f"created_before={second['created_at']}", [first]),
        ("filename=.&media_type=text/plain", [first]),
    ]:
        answer = (await caller.get(f"{FILES}?{query.replace('=%', '=%25')}")).json()
        assert [one["id"] for one in answer["data"]] == found, query
        assert answer["pagination"]["total_records"] == len(found)
    assert problems(await caller.get(f"{FILES}?created_after=yesterday")) == {
        "created_after": "invalid_instant"
    }


async def test_a_file_that_was_deleted_leaves_its_directories_at_once(caller: Caller) -> None:
    kept, gone = await caller.upload(b"x"), await caller.upload(b"y")
    directory = await caller.directory(kept, gone)
    assert (await caller.send("DELETE", f"{FILES}/{gone}")).status_code == 204
    assert (await caller.data(f"/api/v1/directories/{directory}"))["files"] == 1
    entries = await caller.data(f"/api/v1/directories/{directory}/files")
    assert [one["file"]["id"] for one in entries] == [kept]


async def noted(database: Database) -> int:
    """Bytes that are to go."""
    async with database.connection() as connection:
        found: int = await connection.fetchval("SELECT count(*) FROM file_discard")
    return found


async def test_uploads_leave_no_notes_behind(caller: Caller, database: Database) -> None:
    file_id = await caller.upload(b"x")
    await caller.send("DELETE", f"{FILES}/{file_id}")
    await caller.post(f"{FILES}?filename=a", content=b"")
    assert await noted(database) == 0


async def test_an_upload_that_outlived_its_note_is_no_file(
    caller: Caller, settings: Settings, database: Database
) -> None:
    """A worker took it for broken off meanwhile, and may have removed its bytes."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        async with database.connection() as connection:
            await connection.execute("DELETE FROM file_discard")
        yield b"y"

    answer = await caller.post(f"{FILES}?filename=a", content=slow())
    assert code_of(answer, 409) == "conflict"
    assert await caller.data(FILES) == []


class TestRetention:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"file_retention_days": 7})

    async def test_every_way_in_says_when_the_file_will_go(self, caller: Caller) -> None:
        directory = f"/api/v1/directories/{await caller.directory()}"
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a.txt", "x")
        await caller.upload(b"x")
        await caller.post(f"{directory}/upload?filename=a", content=b"x")
        await caller.post(f"{directory}/zip", content=archive.getvalue())
        found = await caller.data(FILES)
        assert len(found) == 3
        for one in found:
            made, ends = (datetime.fromisoformat(one[name]) for name in ("created_at", "expires_at"))
            assert ends - made == timedelta(days=7)


async def test_without_a_retention_files_are_kept(caller: Caller) -> None:
    assert (await caller.data(f"{FILES}/{await caller.upload(b'x')}"))["expires_at"] is None


class TestByUrl:
    @pytest.fixture
    async def http(self) -> AsyncIterator[HttpSession]:
        async with HttpSession(allow_private=True) as http:
            yield http

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"upload_max_bytes": 1000})

    async def test_a_file_is_fetched_and_its_origin_shown_without_what_may_be_secret(
        self, caller: Caller, settings: Settings
    ) -> None:
        async with Receiver() as server:
            server.behave(status(302, Location="/a/table.csv?sig=hush"), status(200, b"a,b\n1,2\n"))
            made = await caller.post(FILES, {"url": f"{server.url}?sig=hush", "purpose": "batch"})
        assert made.status_code == 201, made.text
        data = made.json()["data"]
        assert (data["filename"], data["media_type"], data["records"]) == ("table.csv", "text/csv", 2)
        assert (data["source_url"], data["purpose"]) == (server.url, "batch")
        assert "hush" not in made.text
        assert (await caller.get(f"{FILES}/{data['id']}/content")).content == b"a,b\n1,2\n"
        assert len(on_disk(settings.data_dir)) == 1

    async def test_it_may_be_given_a_name(self, caller: Caller) -> None:
        async with Receiver() as server:
            server.behave(status(200, b"x"))
            made = await caller.post(FILES, {"url": server.url, "filename": "/tmp/mine.txt"})
        assert made.json()["data"]["filename"] == "mine.txt"

    async def test_what_cannot_be_fetched_is_refused_and_leaves_nothing(
        self, caller: Caller, settings: Settings, database: Database
    ) -> None:
        async with Receiver() as server:
            for behaviour, code in [
                (status(404, b"hush"), "url_status"),
                (status(302, Location="file:///etc/passwd"), "url_unreachable"),
                (status(200, b"x" * 1001), "source_too_large"),
                (reset(), "url_unreachable"),
            ]:
                server.behave(behaviour)
                answer = await caller.post(FILES, {"url": server.url})
                assert problems(answer) == {"/url": code}
                assert "hush" not in answer.text
            server.behave(status(200, b""))
            assert problems(await caller.post(FILES, {"url": server.url})) == {"file": "empty_file"}
        assert (on_disk(settings.data_dir), await noted(database)) == ([], 0)
        assert await caller.data(FILES) == []

    async def test_a_body_that_is_no_such_wish_is_refused(self, caller: Caller) -> None:
        for body, at in [
            ({}, "/url"),
            ({"url": 7}, "/url"),
            ({"url": "x", "id": "y"}, "/id"),
            ({"url": ""}, "/url"),
        ]:
            assert at in problems(await caller.post(FILES, body))
        assert problems(await caller.post(FILES, {"url": "x" * 2049})) == {"/url": "string_too_long"}
        assert (await caller.post(f"{FILES}?filename=a.json", {"url": "x"})).status_code == 201


async def test_blocked_and_refused_urls_are_answered_alike(caller: Caller) -> None:
    """With the guard as it is by default."""
    async with Receiver() as server:
        told = {
            tuple(answer.json()["error"]["errors"][0].values())
            for url in (
                server.url,
                "https://127.0.0.1/",
                "https://no-such-name.invalid/",
                "ftp://a.example/",
                "nonsense",
            )
            for answer in [await caller.post(FILES, {"url": url})]
        }
        assert server.accepted == 0
    assert [one[:2] for one in told] == [("/url", "url_unreachable")]


class TestInAStore:
    """The same routes on a real S3 server."""

    @pytest.fixture
    def settings(self, settings: Settings, bucket: Bucket, tmp_path: Path) -> Settings:
        return bucket.settings(data_dir=tmp_path, host="127.0.0.1", port=8000)

    async def test_files_lie_in_the_bucket_and_nowhere_else(
        self, caller: Caller, settings: Settings, bucket: Bucket
    ) -> None:
        content = bytes(range(256)) * 40_000
        file_id = await caller.upload(content, "data.bin")
        assert bucket.keys() == [f"gristmill/files/{caller.tenant_id}/{file_id}"]
        assert on_disk(settings.data_dir) == []
        answer = await caller.get(f"{FILES}/{file_id}/content")
        assert answer.content == content
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["content-disposition"].startswith("attachment")
        assert (await caller.send("DELETE", f"{FILES}/{file_id}")).status_code == 204
        assert bucket.keys() == []

    @pytest.mark.parametrize(
        ("asked", "code", "content", "told"),
        [
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=7-100", 206, b"789", "bytes 7-9/10"),
            ("bytes=10-", 200, b"0123456789", None),
            ("bytes=-3", 200, b"0123456789", None),
            ("bytes=4-2", 200, b"0123456789", None),
            ("bytes=0-1,3-4", 200, b"0123456789", None),
            ("lines=1-2", 200, b"0123456789", None),
        ],
    )
    async def test_a_part_can_be_had(
        self, caller: Caller, asked: str, code: int, content: bytes, told: str | None
    ) -> None:
        file_id = await caller.upload(b"0123456789")
        answer = await caller.get(f"{FILES}/{file_id}/content", headers={"range": asked})
        assert (answer.status_code, answer.content) == (code, content)
        assert answer.headers.get("content-range") == told

    async def test_a_refused_upload_leaves_nothing(
        self, caller: Caller, bucket: Bucket, database: Database
    ) -> None:
        for content, answer in ((b"", 400), (form((FILE, b"x" * 9_000_000), end=b""), 400)):
            made = await caller.post(
                f"{FILES}?filename=a", content=content, headers={"content-type": BOUNDARY}
            )
            assert made.status_code == answer
        assert (bucket.keys(), bucket.broken_off(), await noted(database)) == ([], [], 0)

    async def test_bytes_that_are_gone_are_404(self, caller: Caller, service: Service) -> None:
        file_id = await caller.upload(b"x")
        await service.app.state.parts.storage.delete(f"files/{caller.tenant_id}/{file_id}")
        assert code_of(await caller.get(f"{FILES}/{file_id}/content"), 404) == "not_found"


class TestWithoutTheStore:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Bucket("http://127.0.0.1:9", "bucket").settings(data_dir=tmp_path)

    async def test_it_is_503_and_a_deleted_file_is_left_to_the_workers(
        self, caller: Caller, database: Database
    ) -> None:
        made = await caller.post(f"{FILES}?filename=a", content=b"x")
        assert code_of(made, 503) == "storage_unavailable"
        assert "retry-after" in made.headers
        assert await caller.data(FILES) == []
        assert await noted(database) == 1


class TestSmallUploads:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"upload_max_bytes": 1000})

    async def test_a_file_larger_than_the_limit_is_413_and_leaves_nothing(
        self, caller: Caller, settings: Settings
    ) -> None:
        await caller.upload(b"x" * 1000)
        before = on_disk(settings.data_dir)
        for more in (
            {"files": {"file": ("a", b"x" * 1001)}},
            {"content": b"x" * 1001, "params": {"filename": "a"}},
        ):
            assert code_of(await caller.post(FILES, **more), 413) == "too_large"
        assert on_disk(settings.data_dir) == before


@pytest.mark.parametrize("file_id", ["01a20313-7126-7000-b171-15a57bafe5cf", "7", "%2e%2e", "%00"])
async def test_an_unknown_file_is_404_on_every_route(caller: Caller, file_id: str) -> None:
    for method, path in [("GET", ""), ("GET", "/content"), ("DELETE", "")]:
        assert code_of(await caller.send(method, f"{FILES}/{file_id}{path}"), 404) == "not_found"
