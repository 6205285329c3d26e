"""Images as Nexent's back end asks for them: loaded, and judged."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from PIL import Image

from documents.test_images import png
from factories import sql
from fakes.answers import answer as usual
from fakes.receiver import Receiver, status
from fakes.s3 import Bucket
from fakes.wire import Request, error
from served import Served
from service import Caller

from .conftest import Nexent


def picture(width: int = 320, height: int = 240, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(out, kind)
    return out.getvalue()


@pytest.fixture
def model(mill: Served) -> Iterator[dict[str, Any]]:
    """What it says of every image."""
    said = {"important": True, "confidence": 0.9}

    def script(request: Request) -> tuple[int, dict[str, Any]]:
        code, body = usual(request)
        body["choices"][0]["message"]["content"] = json.dumps(said)
        return code, body

    before, mill.llm.script = mill.llm.script, script
    mill.llm.requests.clear()
    yield said
    mill.llm.script = before


async def judged(bare: Nexent, image: bytes, **form: str) -> dict[str, Any]:
    async with Receiver() as source:
        source.behave(status(200, image))
        answer = await bare.send("POST", "/filter_important_image", data={"image_url": source.url} | form)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert sorted(body) == ["confidence", "is_important", "judged", "probabilities", "reason"]
    return body


async def test_the_model_judges_by_the_prompts_of_the_form(
    mill: Served, bare: Nexent, model: dict[str, Any]
) -> None:
    form = {"positive_prompt": "a mill", "negative_prompt": "logo or banner"}
    assert await judged(bare, picture(), **form) == {
        "is_important": True, "confidence": 0.9, "probabilities": {"positive": 0.9, "negative": 0.1},
        "judged": True, "reason": "judged_by_model",
    }  # fmt: skip
    [request] = mill.llm.requests
    assert "a mill" in request.body["messages"][0]["content"]
    assert "logo or banner" in request.body["messages"][0]["content"]
    model |= {"important": False, "confidence": 0.8}
    body = await judged(bare, picture())
    assert (body["is_important"], body["confidence"], body["probabilities"]["negative"]) == (False, 0.2, 0.8)
    assert (await bare.stranger.get("/api/v1/batches")).json()["data"] == []


async def test_small_and_elongated_images_are_not_important(
    mill: Served, bare: Nexent, model: dict[str, Any]
) -> None:
    for size, reason in (((199, 300), "too_small"), ((1300, 210), "too_elongated")):
        body = await judged(bare, picture(*size))
        assert (body["is_important"], body["judged"], body["reason"]) == (False, True, reason)
        assert body["probabilities"] == {"positive": 0.0, "negative": 0.0}
    assert mill.llm.requests == []


async def test_an_image_that_the_model_cannot_judge_is_let_pass_and_the_answer_says_so(
    mill: Served, bare: Nexent, model: dict[str, Any]
) -> None:
    mill.llm.script = lambda request: (400, error("this model takes no images"))
    body = await judged(bare, picture())
    assert (body["is_important"], body["confidence"], body["judged"]) == (True, 0.0, False)
    assert body["reason"] == "upstream_rejected"


async def test_what_cannot_be_loaded_is_not_important(bare: Nexent, model: dict[str, Any]) -> None:
    for image in (b"<svg/>", b"", picture()[:-200], png(60_000, 60_000, bytes(1_000_000))):
        body = await judged(bare, image)
        assert (body["is_important"], body["judged"]) == (False, False), image[:20]


async def test_a_form_without_an_image_is_a_422(bare: Nexent) -> None:
    answer = await bare.send("POST", "/filter_important_image", data={"positive_prompt": "a"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {"loc": ["body", "image_url"], "msg": "image_url: Field required", "type": "missing"}
    ]


async def test_a_form_may_be_multipart_and_the_image_in_it(bare: Nexent, model: dict[str, Any]) -> None:
    url = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    for form in ({"data": {"image_url": url}}, {"files": {"image_url": (None, url)}}):
        body = (await bare.send("POST", "/filter_important_image", **form)).json()
        assert (body["is_important"], body["judged"]) == (True, True)
    assert (await bare.stranger.get("/api/v1/files")).json()["data"] == []


async def loaded(bare: Nexent, url: str) -> httpx2.Response:
    answer: httpx2.Response = await bare.send("GET", f"/load_image?url={quote(url, safe='')}")
    return answer


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_an_image_is_loaded_as_it_is(bare: Nexent, kind: str) -> None:
    image = picture(kind=kind)
    async with Receiver() as source:
        source.behave(status(200, image, Content_Type="text/plain"))
        answer = await loaded(bare, source.url)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "success": True, "base64": base64.b64encode(image).decode(), "content_type": f"image/{kind.lower()}",
    }  # fmt: skip
    assert (await bare.stranger.get("/api/v1/batches")).json()["data"] == []


async def test_images_are_loaded_from_the_folder_the_store_and_out_of_data_urls(
    mill: Served, bare: Nexent, objects: Bucket
) -> None:
    image = picture()
    (mill.folder / "a.png").write_bytes(image)
    objects.put("nexent/a.png", image)
    data = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    for url in (str(mill.folder / "a.png"), f"s3://{objects.name}/nexent/a.png", data):
        answer = await loaded(bare, url)
        assert answer.status_code == 200, (url[:40], answer.text)
        assert base64.b64decode(answer.json()["base64"]) == image


async def test_what_is_no_image_is_not_found(bare: Nexent) -> None:
    async with Receiver() as source:
        for body in (b"hello", picture()[:-200], png(60_000, 60_000, bytes(1_000_000))):
            source.behave(status(200, body))
            answer = await loaded(bare, source.url)
            assert answer.status_code == 404
            assert answer.json() == {"detail": "Failed to load image or image format not supported"}
        source.behave(status(404))
        assert (await loaded(bare, source.url)).status_code == 404
    for url in ("/etc/passwd", "../a.png", "data:image/png;base64,%%%", "data:image/png;base64,", "ftp://a"):
        assert (await loaded(bare, url)).status_code == 404, url
    missing = await bare.send("GET", "/load_image")
    assert missing.json()["detail"][0]["loc"] == ["query", "url"]


async def test_addresses_that_may_not_be_called_look_like_those_where_nothing_is(caller: Caller) -> None:
    """Where private addresses are closed, as they are by default: no worker runs, and none is needed to refuse."""
    async with Receiver() as source:
        source.behave(status(200, picture()))
        for url in (
            source.url,
            "https://127.0.0.1/a.png",
            "https://169.254.169.254/a.png",
            "http://localhost/a.png",
        ):
            answer = await caller.get(f"/tasks/load_image?url={quote(url, safe='')}")
            assert (answer.status_code, "detail" in answer.json()) == (404, True)
            body = (await caller.post("/tasks/filter_important_image", data={"image_url": url})).json()
            assert (body["is_important"], body["judged"], body["reason"]) == (False, False, "not_loaded")
        assert source.accepted == 0


async def test_what_was_not_done_in_time_is_kept_for_no_longer_than_a_day(caller: Caller) -> None:
    files = {"file": ("a.txt", b"To be or not to be.")}
    answer = await caller.send("POST", "/tasks/process_text_file", files=files, data={"timeout": "1"})
    assert answer.status_code == 504
    database = caller.service.database
    assert await sql(database, "SELECT retention_days FROM batch") == [1]
    assert await sql(database, "SELECT id FROM file") == []
