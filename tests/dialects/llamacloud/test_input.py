"""Whatever is sent to this dialect's routes, the answer is in its shape and never a 5xx."""

import re
from itertools import product
from typing import Any

import pytest

from gristmill.dialects.llamacloud import DIALECT
from service import Caller

JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
BODIES: list[tuple[bytes, str]] = [
    (b"", JSON),
    (b"{", JSON),
    (b"[]", JSON),
    (b"null", JSON),
    (b"{}", "text/plain"),
    (b"\xff\xfe{}", JSON),
    (b'{"name": "a\\u0000b"}', JSON),
    (b'{"name": 99999999999999999999, "file_id": [], "file_input": {}, "config": 1, "parameters": []}', JSON),
    (b'{"parameters": {"product_type": ["parse_v2"]}, "name": "a"}', JSON),
    (b'{"webhook_url": "http://[", "webhook_headers": {"a b": "c"}}', JSON),
    (
        b'{"config": {"job": {"type": "parse_v2", "configuration_id": null}}, "source_directory_id": "dir-"}',
        JSON,
    ),
    (b"[" * 500, JSON),
    (b"", FORM),
    (b"--x\r\n\r\n", FORM),
    (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nnot a file\r\n--x--\r\n', FORM),
    (b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\na\r\n--x--\r\n', FORM),
    (
        b'--x\r\nContent-Disposition: form-data; name="upload_file"; filename="\xff"\r\n\r\na\r\n--x--\r\n',
        FORM,
    ),
    (b"abc", "multipart/form-data"),
]
IDS = (
    "x",
    "%00",
    "%FF",
    "bat-",
    "dir-%F0%9F%92%A5",
    "cfg-PARSE_FAST",
    "0" * 3000,
    "pjb-00000000-0000-0000-0000-000000000000-0",
)
QUERIES = (
    "",
    "?expand",
    "?expand=%00&expand=text",
    "?page_size=9e9",
    "?page_token=%FF",
    "?status=%00",
    "?a=1" + "&a=1" * 60,
)


def routes(*methods: str) -> list[tuple[str, str]]:
    return [
        (method, route.path)  # type: ignore[attr-defined]
        for route in DIALECT.router.routes
        for method in sorted(route.methods & set(methods))  # type: ignore[attr-defined]
    ]


def well_refused(answer: Any) -> bool:
    if answer.status_code < 400:
        return True
    said = answer.json()
    return answer.status_code < 500 and isinstance(said["detail"], str) and said["code"] != "internal_error"


@pytest.mark.parametrize(("method", "path"), routes("POST", "PUT"))
async def test_a_body_that_is_none_is_refused(caller: Caller, method: str, path: str) -> None:
    where = re.sub(r"\{[^}]*\}", "cfg-PARSE_FAST", path)
    for body, kind in BODIES:
        answer = await caller.send(method, where, content=body, headers={"content-type": kind})
        assert well_refused(answer), (body[:60], answer.status_code, answer.text)


@pytest.mark.parametrize(("method", "path"), routes("GET", "DELETE"))
async def test_an_id_or_a_query_that_is_none_is_refused(caller: Caller, method: str, path: str) -> None:
    for one, query in product(IDS if "{" in path else ("",), QUERIES):
        answer = await caller.send(method, re.sub(r"\{[^}]*\}", one, path) + query)
        assert well_refused(answer), (one[:60], query, answer.status_code, answer.text)


async def test_what_is_no_route_is_refused_in_the_same_shape(caller: Caller) -> None:
    for path in ("/api/v2", "/api/v2/nothing", "/api/v1/beta/classifier", "/api/v2/parse/a/b/c"):
        answer = await caller.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await caller.send("PATCH", "/api/v2/batches")).json()["code"] == "method_not_allowed"
