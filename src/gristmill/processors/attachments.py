"""Files for a model: text as text, images as data URLs, anything else refused."""

import base64
from typing import Any

from gristmill.domain.files import Attachment
from gristmill.domain.outcomes import Failure, ItemError
from gristmill.processors.refusals import Refused

MAX_TEXT_CHARACTERS = 400_000  # of one file: about 100,000 tokens
MAX_IMAGE_BYTES = 20 * 1024 * 1024  # of one file: the largest that the big providers take

_TEXT_TYPES = frozenset(
    {"application/json", "application/xml", "application/x-ndjson", "application/yaml", "message/rfc822"}
)
_TEXT_SUFFIXES = (
    ".txt",
    ".md",
    ".markdown",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".xml",
    ".html",
    ".htm",
    ".yaml",
    ".yml",
)

Part = dict[str, Any]


def part(file: Attachment) -> Part:
    """One part of a message's content. Raises Refused."""
    image = _image_type(file.data)
    if image:
        return _image(file, image)
    if not _is_text(file):
        raise _refused(
            "attachment_unsupported",
            f"The attached file {file.id} is neither text nor an image that a model can read.",
            "Attach text, Markdown, CSV, JSON, XML or HTML, or a PNG, JPEG, GIF or WebP image.",
        )
    return {"type": "text", "text": _framed(file)}


def _framed(file: Attachment) -> str:
    text = file.data.decode("utf-8-sig", errors="replace")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _refused(
            "attachment_too_large",
            f"The attached file {file.id} has {len(text)} characters, the limit is {MAX_TEXT_CHARACTERS}.",
            "Attach the part that matters.",
        )
    name = "".join(
        character for character in file.filename if character.isprintable() and character not in '"<>'
    )
    return f'<file name="{name}">\n{text}\n</file>'


def _image(file: Attachment, media_type: str) -> Part:
    if len(file.data) > MAX_IMAGE_BYTES:
        raise _refused(
            "attachment_too_large",
            f"The attached image {file.id} has {len(file.data)} bytes, the limit is {MAX_IMAGE_BYTES}.",
            "Attach a smaller image.",
        )
    encoded = base64.b64encode(file.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{encoded}"}}


def _image_type(data: bytes) -> str | None:
    """By its first bytes: what a file is called proves nothing."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def _is_text(file: Attachment) -> bool:
    media_type = file.media_type.partition(";")[0].strip().lower()
    named = (
        media_type.startswith("text/")
        or media_type in _TEXT_TYPES
        or media_type.endswith(("+json", "+xml"))
        or file.filename.lower().endswith(_TEXT_SUFFIXES)
    )
    return named and b"\x00" not in file.data


def _refused(kind: str, message: str, suggestion: str) -> Refused:
    return Refused(Failure(ItemError(400, kind, message, suggestion=suggestion)))
