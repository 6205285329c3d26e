"""Chunks on their way to a sink: posts of some chunks each, one after the other, from where an earlier attempt stood.

The sink sees each chunk at least once. A chunk's id says of which item it is and where it stands, so it is the same whenever
it is sent; a post that is sent again has the same chunks and the same `Idempotency-Key`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from gristmill.net.session import HttpSession
from gristmill.processors import calls
from gristmill.processors.calls import Endpoint, Message
from gristmill.upstream.circuit import Circuit

Form = Literal["message", "documents"]
MAX_POST_CHARACTERS = 1_000_000  # of the chunks in one post; a larger chunk goes alone
_MAX_ANSWER_BYTES = 64 * 1024  # read, so that the connection can be used again


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's text, and what is known of it alone (page, heading)."""

    content: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunks:
    """All chunks of one item, and what they share."""

    filename: str
    metadata: dict[str, str]
    language: str | None
    pieces: tuple[Piece, ...]
    seconds: float | None = None  # that making them took

    def as_text(self) -> str:
        """For a checkpoint."""
        pieces = [[piece.content, piece.metadata] for piece in self.pieces]
        return orjson.dumps([self.filename, self.metadata, self.language, pieces, self.seconds]).decode()

    @classmethod
    def of_text(cls, text: str) -> "Chunks":
        filename, metadata, language, pieces, *more = orjson.loads(
            text
        )  # older ones do not know how long it took
        return cls(filename, metadata, language, tuple(Piece(*piece) for piece in pieces), *more)


@dataclass(frozen=True, slots=True)
class Origin:
    """The item that the chunks are of."""

    batch_id: str
    ordinal: int
    custom_id: str

    @property
    def id(self) -> str:
        return f"{self.batch_id}-{self.ordinal}"


async def forward(
    http: HttpSession,
    circuit: Circuit | None,
    sink: Endpoint,
    origin: Origin,
    chunks: Chunks,
    *,
    done: int,
    form: Form = "message",
    per_post: int,
    advance: Callable[[int], Awaitable[None]],
) -> int:
    """Send what comes after the first `done` chunks; `advance` is told how many the sink has after each post.

    Answers with the number of posts. Raises Refused, and whatever `advance` raises.
    """
    posts = 0
    while done < len(chunks.pieces):
        end = _end(chunks.pieces, done, per_post)
        message = _message(origin, chunks, done, end, form)
        # A status counts even if the body behind it never ends: the sink has said that it has them.
        await calls.post(http, sink, message, max_bytes=_MAX_ANSWER_BYTES, partial=True, circuit=circuit)
        await advance(end)
        done, posts = end, posts + 1
    return posts


def _end(pieces: Sequence[Piece], first: int, most: int) -> int:
    """Up to which piece one post goes that begins with `first`: always the same for the same pieces."""
    end, characters = first + 1, len(pieces[first].content)
    while end < min(first + most, len(pieces)):
        characters += len(pieces[end].content)
        if characters > MAX_POST_CHARACTERS:
            break
        end += 1
    return end


def _message(origin: Origin, chunks: Chunks, first: int, end: int, form: Form) -> Message:
    sent = [_chunk(origin, chunks, index) for index in range(first, end)]
    body: Any = [_document(origin, one) for one in sent]
    if form == "message":
        whose = {"batch_id": origin.batch_id, "custom_id": origin.custom_id}
        body = {"type": "chunks", **whose, "chunks": sent}
    identifier = f"chunks_{origin.id}_{first}"
    return Message(identifier, f"{origin.id}:{first}-{end - 1}", orjson.dumps(body))


def _document(origin: Origin, chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk as a document of its own, with what index services look for at the top."""
    metadata = chunk["metadata"]
    return chunk | {
        "title": metadata.get("title") or chunk["filename"],
        "path_or_url": metadata.get("path_or_url") or origin.custom_id,
        "source_type": metadata.get("source_type"),
        "file_size": len(chunk["content"].encode()),
    }


def _chunk(origin: Origin, chunks: Chunks, index: int) -> dict[str, Any]:
    piece = chunks.pieces[index]
    return {
        "id": f"{origin.id}-{index}",
        "content": piece.content,
        "filename": chunks.filename,
        "metadata": chunks.metadata | piece.metadata,
        "language": chunks.language,
        "index": index,
        "total": len(chunks.pieces),
    }
