"""Files: streamed in and out, typed by their bytes, named by ids on disk."""

import hashlib
from pathlib import Path

import pytest

from gristmill.settings import Settings
from service import Caller, code_of, problems

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
