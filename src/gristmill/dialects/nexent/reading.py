"""Files of Nexent read at once: text and chunks in the answer, nothing forwarded."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, incoming
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.multipart import FIELD, FilePart
from gristmill.api.parts import parts
from gristmill.dialects.nexent import at_once, forms
from gristmill.dialects.nexent.at_once import Done, TooLate
from gristmill.dialects.nexent.passing import passing
from gristmill.dialects.nexent.words import SOURCE_TYPES, invalid, strategy
from gristmill.documents import Document, Page
from gristmill.documents.chunks import Strategy, chunks
from gristmill.processors.parse import Parse

_SECONDS, _UPLOAD_SECONDS = 30, 60  # unless the form says; for uploads Nexent's own client says 60
_MAX_SOURCE = 2048
_CONFIG = {"text": False, "content": "none"}

router = APIRouter(include_in_schema=False)


@router.post("/tasks/process")
async def process(request: Request) -> Response:
    key = await caller(request, "batches:write")
    values = await forms.read(request)
    source, kind = forms.required(values, "source"), forms.required(values, "source_type")
    if len(source) > _MAX_SOURCE:
        raise invalid("source", f"at most {_MAX_SOURCE} characters")
    if kind not in SOURCE_TYPES:
        raise invalid("source_type", f"must be one of: {', '.join(SOURCE_TYPES)}")
    wanted = strategy(values.get("chunking_strategy"))
    limit = forms.seconds(values, _SECONDS, at_once.LONGEST_SECONDS)
    given = {"source": source, "source_type": kind}
    try:
        done = await at_once.run(parts(request), key, Parse.name, given, _CONFIG, limit)
    except TooLate:
        return _too_late(limit)
    if done.output is None:
        return _failed(done)
    made = await asyncio.to_thread(_chunked, done.output, wanted)
    if not made:
        return _detail(422, f"Error processing file: {_EMPTY}")
    text = "\n\n".join(one["content"] for one in made)
    return as_json(
        {
            "success": True,
            "task_id": done.task_id,
            "source": source,
            "text": text,
            "chunks": made,
            "chunks_count": len(made),
            "processing_time": done.seconds,
            "text_length": len(text),
        }
    )


@router.post("/tasks/process_text_file")
async def process_text_file(request: Request) -> Response:
    """The file goes when it is read, and so does what was read of it."""
    key = await caller(request, "batches:write", "files:write")
    of, form, limit = parts(request), FilePart(lenient=True), _UPLOAD_SECONDS
    body.check_not_encoded(request)
    pieces = incoming.form_pieces(request, form)
    async with passing(of, key, pieces, lambda: form.filename or FIELD) as new:
        wanted = strategy(form.texts.get("chunking_strategy"))
        limit = forms.seconds(form.texts, _UPLOAD_SECONDS, at_once.LONGEST_SECONDS)
        given = {"file_id": str(new.id), "filename": new.filename[-255:]}
        try:
            done = await at_once.run(of, key, Parse.name, given, _CONFIG, limit)
        except TooLate:
            return _too_late(limit)
        await at_once.forget(of, key.tenant_id, done)
    if done.output is None:
        return _failed(done)
    made = await asyncio.to_thread(_chunked, done.output, wanted)
    if not made:
        return _detail(422, f"Error processing file: {_EMPTY}")
    text = "\n".join(one["content"] for one in made)
    return as_json(
        {
            "success": True,
            "task_id": None,
            "filename": new.filename,
            "text": text,
            "chunks": [one["content"] for one in made],
            "chunks_count": len(made),
            "text_length": len(text),
            "processing_time": done.seconds,
            "chunking_strategy": wanted,
        }
    )


def _chunked(output: dict[str, Any], wanted: Strategy) -> list[dict[str, Any]]:
    """As Nexent has chunks. In a thread: a book takes 0.1 s."""
    pages = tuple(Page(one["number"], one["markdown"], one["markdown"]) for one in output["pages"])
    if output["scanned"] or not any(page.text.strip() for page in pages):
        return []
    found = chunks(Document(output["media_type"], pages), strategy=wanted)
    shared = {"filename": output["filename"], "language": output["language"]}
    return [
        {"content": one.text, **shared, "metadata": output["metadata"] | {"page": str(one.page)}}
        for one in found
    ]


_EMPTY = "There is no text in it to make chunks of (no_valid_chunks). A scan has to go through text recognition first."


def _failed(done: Done) -> Response:
    """What is wrong with the document is a 422; what may be gone by the next time, a 503."""
    error = done.error or {}
    told = " ".join(filter(None, (error.get("message"), error.get("suggestion"))))
    return _detail(503 if error.get("retryable") else 422, f"Error processing file: {told}")


def _too_late(limit: float) -> Response:
    return _detail(504, f"Error processing file: it was not done within {limit:g} seconds.")


def _detail(status: int, text: str) -> Response:
    return as_json({"detail": text}, status)
