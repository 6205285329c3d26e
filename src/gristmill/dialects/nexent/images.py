"""Images of Nexent: loaded through the address guard, looked at in the worker's sandbox, and judged by the model."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.dialects.nexent import at_once, forms
from gristmill.dialects.nexent.at_once import Done, TooLate
from gristmill.dialects.nexent.passing import passing
from gristmill.dialects.nexent.words import invalid
from gristmill.documents.images import MAX_BYTES
from gristmill.domain.errors import Invalid, Problem
from gristmill.processors.image import Image
from gristmill.store.keys import Key

_SECONDS = 30
_MAX_SOURCE, _MAX_PROMPT = 2048, 2000
_DATA = "data:image/"
_MAX_FORM_BYTES = 2 * MAX_BYTES  # as Base64, escaped
_NOT_LOADED = "Failed to load image or image format not supported"

router = APIRouter(include_in_schema=False)


@router.get("/tasks/load_image")
async def load_image(request: Request) -> Response:
    """The file as it is, in Base64. Nothing is converted: PNG, JPEG, GIF and WebP."""
    key = await caller(request, "batches:write")
    query = Query(request, ("url",), lenient=True)
    url = query.text("url", _MAX_SOURCE)
    query.check()
    if not url:
        raise Invalid([Problem("url", "missing", "Field required")])
    try:
        done = await _seen(parts(request), key, url, {"judge": False, "content": True})
    except TooLate:
        return as_json({"detail": "Error loading image: it took too long"}, 504)
    if done is None or done.output is None or done.output["content"] is None:
        return as_json({"detail": _NOT_LOADED}, 404)
    shown = {"success": True, "base64": done.output["content"], "content_type": done.output["media_type"]}
    return as_json(shown)


@router.post("/tasks/filter_important_image")
async def filter_important_image(request: Request) -> Response:
    """`judged` and `reason` say whether anybody has decided, and what: an image that nobody could judge is let pass."""
    key = await caller(request, "batches:write")
    values = await forms.read(request, _MAX_FORM_BYTES)
    config: dict[str, Any] = {"parameters": {"temperature": 0}}
    for name in ("positive_prompt", "negative_prompt"):
        if prompt := values.get(name):
            config[name] = prompt[:_MAX_PROMPT]
    try:
        done = await _seen(parts(request), key, forms.required(values, "image_url"), config)
    except TooLate:
        return as_json({"detail": "Error processing image: it took too long"}, 504)
    return as_json(_verdict(done))


def _verdict(done: Done | None) -> dict[str, Any]:
    if done is None:
        return _said(False, 0.0, 0.0, judged=False, reason="not_loaded")
    if done.output is None:  # the image's fault, or the model's, which is none of the image
        reason = (done.error or {}).get("type")
        return _said(done.code != 400, 0.0, 0.0, judged=False, reason=reason)
    found = done.output["importance"]
    if not found["judged"]:
        return _said(True, 0.0, 0.0, judged=False, reason=found["reason"])
    if found["reason"] != "judged_by_model":  # by the rules: Nexent has no confidence in these
        return _said(False, 0.0, 0.0, judged=True, reason=found["reason"])
    sure = found["confidence"]
    positive = sure if found["is_important"] else 1 - sure
    return _said(found["is_important"], positive, 1 - positive, judged=True, reason=found["reason"])


def _said(important: bool, positive: float, negative: float, **more: Any) -> dict[str, Any]:
    """`confidence` is that of its being important, as it is in Nexent."""
    probabilities = {"positive": round(positive, 6), "negative": round(negative, 6)}
    return {
        "is_important": important,
        "confidence": probabilities["positive"],
        "probabilities": probabilities,
        **more,
    }


async def _seen(of: Parts, key: Key, image: str, config: dict[str, Any]) -> Done | None:
    """What the processor says of the image; None for a place where none can be. Nothing of it is kept, but for a day what was
    not done in time. Raises TooLate."""
    if image.startswith(_DATA):
        return await _of_data(of, key, image, config)
    if len(image) > _MAX_SOURCE:
        raise invalid("image_url", f"at most {_MAX_SOURCE} characters")
    given = {"source": image, "source_type": _source_type(image)}
    try:
        done = await at_once.run(of, key, Image.name, given, config, _SECONDS)
    except Invalid:  # an address that may not be called looks like one where nothing is
        return None
    await at_once.forget(of, key.tenant_id, done)
    return done


def _source_type(image: str) -> str:
    if image.lower().startswith(("http://", "https://")):
        return "url"
    return "minio" if image.startswith("s3://") else "local"


async def _of_data(of: Parts, key: Key, image: str, config: dict[str, Any]) -> Done | None:
    """Of a data URL."""
    try:
        data = await asyncio.to_thread(base64.b64decode, image.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    if not 0 < len(data) <= MAX_BYTES:
        return None
    async with passing(of, key, _pieces(data), lambda: "image") as new:
        done = await at_once.run(of, key, Image.name, {"file_id": str(new.id)}, config, _SECONDS)
        await at_once.forget(of, key.tenant_id, done)
    return done


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data
