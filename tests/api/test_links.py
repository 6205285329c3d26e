"""Links to files: for whoever has one, for a while, and for that one file."""

import base64
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from gristmill.api import links
from service import Caller, Service, code_of, new_key, problems


async def link_of(caller: Caller, file_id: str, **body: int) -> tuple[str, str]:
    """Its path, and when it ends."""
    made = await caller.post(f"/api/v1/files/{file_id}/link", body or None)
    assert made.status_code == 201, made.text
    found = made.json()["data"]
    return urlsplit(found["url"]).path, found["expires_at"]


async def test_a_link_opens_its_file_without_a_key(service: Service, caller: Caller) -> None:
    path, _ = await link_of(caller, await caller.upload(b"a letter", "letter.txt"))
    got = await service.client.get(path)
    assert (got.status_code, got.content) == (200, b"a letter")
    assert got.headers["content-disposition"].startswith("attachment")


async def test_a_link_begins_where_links_begin_and_not_with_the_host_header(caller: Caller) -> None:
    made = await caller.post(f"/api/v1/files/{await caller.upload(b'a')}/link")
    assert made.json()["data"]["url"].startswith("http://127.0.0.1:8000/downloads/")


async def test_a_link_ends_with_its_time_and_with_its_file(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await caller.upload(b"a letter")
    short, _ = await link_of(caller, file_id, expires_seconds=1)
    long, _ = await link_of(caller, file_id, expires_seconds=links.MAX_SECONDS)
    now = links.time.time()
    monkeypatch.setattr(links.time, "time", lambda: now + 3)
    code_of(await service.client.get(short), 404)
    assert (await service.client.get(long)).status_code == 200
    await caller.send("DELETE", f"/api/v1/files/{file_id}")
    code_of(await service.client.get(long), 404)


async def test_a_link_that_was_changed_or_made_elsewhere_opens_nothing(
    service: Service, caller: Caller
) -> None:
    file_id, secret = await caller.upload(b"a letter"), await caller.upload(b"a secret")
    path, _ = await link_of(caller, file_id)
    head, _, token = path.rpartition("/")
    raw = base64.urlsafe_b64decode(token + "=")
    other = bytes.fromhex(secret.replace("-", ""))
    for changed in (
        raw[:32] + other + raw[48:],  # another file
        raw[:-8] + (2**40).to_bytes(8),  # another time
        raw[:-1],
        raw + b"\0",
        b"",
        bytes(len(raw)),
    ):
        code_of(
            await service.client.get(
                f"{head}/{base64.urlsafe_b64encode(changed).decode().rstrip('=') or 'x'}"
            ),
            404,
        )
    for nonsense in ("x", "%00", "é", "a" * 5000):
        code_of(await service.client.get(f"{head}/{nonsense}"), 404)


async def test_only_who_may_read_a_file_can_make_a_link_to_it(
    service: Service, caller: Caller, other: Caller
) -> None:
    file_id = await caller.upload(b"a letter")
    code_of(await other.post(f"/api/v1/files/{file_id}/link"), 404)
    code_of(await caller.post(f"/api/v1/files/{uuid4()}/link"), 404)
    without = await new_key(service, caller.tenant_id, ["files:write"])
    code_of(await without.post(f"/api/v1/files/{file_id}/link"), 403)
    for seconds in (0, links.MAX_SECONDS + 1):
        refused = await caller.post(f"/api/v1/files/{file_id}/link", {"expires_seconds": seconds})
        assert list(problems(refused)) == ["/expires_seconds"]
