"""Document to chunks to a sink, stage by stage. What has been processed is kept, so forwarding is retried alone."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import BaseModel, Field, StringConstraints

from gristmill.documents import Refused as NotRead
from gristmill.documents.chunks import MAX_CHARACTERS, NEW_AFTER, Chunk, Strategy, chunks
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success
from gristmill.domain.retry import RetryPolicy
from gristmill.domain.states import ItemStatus
from gristmill.processors import calls, documents
from gristmill.processors.base import Context, Processor
from gristmill.processors.calls import Endpoint
from gristmill.processors.documents import DocumentInput
from gristmill.processors.fields import GuardedUrl, SecretHeaders, SigningSecret
from gristmill.processors.forwarding import Chunks, Form, Origin, Piece, forward
from gristmill.processors.refusals import Refused

_FORWARDING = "FORWARDING"
_NAMED = re.compile(r":[a-z_]{1,64}")

# The words of seed 000, by whether an item's chunks are made.
_STAGES: dict[ItemStatus, tuple[str, str]] = {
    ItemStatus.PENDING: ("WAIT_FOR_PROCESSING", "WAIT_FOR_FORWARDING"),
    ItemStatus.PROCESSING: ("PROCESSING", _FORWARDING),
    ItemStatus.SUCCESS: ("COMPLETED", "COMPLETED"),
    ItemStatus.FAILED: ("PROCESS_FAILED", "FORWARD_FAILED"),
}


class Sink(BaseModel):
    url: Annotated[
        GuardedUrl,
        Field(description="A part of its path like `:name` is what the item's metadata has under that name"),
    ]
    form: Annotated[
        Form,
        Field(
            description="message: the chunks, and whose they are; documents: a bare list of documents, as index services "
            "such as Nexent's take them"
        ),
    ] = "message"
    secret: SigningSecret | None = None
    headers: SecretHeaders = {}
    chunks_per_post: Annotated[int, Field(ge=1, le=500)] = 64
    timeout_seconds: Annotated[float, Field(ge=1, le=600, description="For one post")] = 30.0


class PipelineConfig(BaseModel):
    sink: Sink
    chunking_strategy: Annotated[
        Strategy,
        Field(description="basic: sentences; by_title: a heading begins a new chunk; none: the whole text"),
    ] = "basic"
    max_characters: Annotated[int, Field(ge=1, le=100_000, description="No chunk is longer")] = MAX_CHARACTERS
    new_after: Annotated[
        int, Field(ge=1, le=100_000, description="A chunk that has so many characters is full")
    ] = NEW_AFTER


class PipelineInput(DocumentInput):
    chunking_strategy: Strategy | None = Field(None, description="null: as the configuration has it")
    language: Annotated[str, StringConstraints(min_length=1, max_length=35)] | None = Field(
        None, description="null: as the text seems to be"
    )
    metadata: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=2048)],
        ],
        Field(max_length=32, description="Goes along with every chunk"),
    ] = Field(default_factory=dict)


class Pipeline(Processor[PipelineInput, PipelineConfig]):
    name: ClassVar[str] = "pipeline"
    description: ClassVar[str] = "Splits a document into chunks and forwards them to a sink of yours."
    input_model = PipelineInput
    config_model = PipelineConfig
    retry: RetryPolicy = calls.POLICY
    uses_parser: ClassVar[bool] = True
    uses_checkpoints: ClassVar[bool] = True

    def depends_on(self, config: PipelineConfig) -> str | None:
        return config.sink.url

    def item_name(self, given: PipelineInput) -> str | None:
        return documents.name_of(given)

    def stage(self, status: ItemStatus, saved: str | None) -> str:
        return _STAGES[status][saved is not None]

    async def run(self, given: PipelineInput, context: Context[PipelineConfig]) -> Outcome:
        try:
            saved = await context.checkpoint()
            if saved is None or saved.data is None:
                saved = await self._process(given, context)
            return await self._forward(saved, context)
        except Refused as refused:
            return refused.outcome

    async def _process(self, given: PipelineInput, context: Context[PipelineConfig]) -> Checkpoint:
        """The chunks, kept. Raises Refused."""
        began = time.monotonic()
        try:
            made = replace(await _chunked(given, context), seconds=_seconds_since(began))
        except Refused as refused:
            raise _in_our_words(refused) from None
        saved = Checkpoint(_FORWARDING, made.as_text(), 0, len(made.pieces))
        await context.save(saved.stage, saved.data, done=saved.done, total=saved.total)
        return saved

    async def _forward(self, saved: Checkpoint, context: Context[PipelineConfig]) -> Outcome:
        made, began = Chunks.of_text(saved.data or ""), time.monotonic()
        posts = await forward(
            context.services.http,
            context.services.circuit,
            _endpoint(context.config.sink, made.metadata),
            Origin(str(context.batch_id), context.ordinal, context.custom_id),
            made,
            done=saved.done,
            form=context.config.sink.form,
            per_post=context.config.sink.chunks_per_post,
            advance=context.advance,
        )
        characters = sum(len(piece.content) for piece in made.pieces)
        output = {"chunks": len(made.pieces), "characters": characters, "language": made.language}
        times = {"processing_seconds": made.seconds, "forwarding_seconds": _seconds_since(began)}
        return Success(output | {"filename": made.filename, "posts": posts} | times)


async def _chunked(given: PipelineInput, context: Context[PipelineConfig]) -> Chunks:
    """Raises Refused, SourceRefused."""
    config = context.config
    document, filename = await documents.read(given, context)
    if not document.text.strip():  # scanned pages have no more than Markdown's marks
        raise Refused(_no_valid_chunks())
    new_after = min(config.new_after, config.max_characters)
    strategy = given.chunking_strategy or config.chunking_strategy
    try:
        found = await asyncio.to_thread(chunks, document, config.max_characters, new_after, strategy)
    except NotRead as refused:
        raise documents.not_read(refused) from None
    if not found:
        raise Refused(_no_valid_chunks())
    paged = given.text is None  # a text has no pages
    return Chunks(
        filename or context.custom_id,
        document.metadata | given.metadata,
        given.language or document.language,
        tuple(Piece(chunk.text, _of_its_own(chunk, paged)) for chunk in found),
    )


def _seconds_since(began: float) -> float:
    return round(time.monotonic() - began, 3)


def _of_its_own(chunk: Chunk, paged: bool) -> dict[str, str]:
    found = {"page": str(chunk.page)} if paged else {}
    return found if chunk.heading is None else found | {"heading": chunk.heading}


def _endpoint(sink: Sink, metadata: Mapping[str, str]) -> Endpoint:
    """Raises Refused."""
    secret, headers = calls.in_clear(sink.secret), calls.all_in_clear(sink.headers)
    url = _filled(sink.url, metadata)
    return Endpoint("sink", "The sink", url, secret, headers, sink.timeout_seconds)


def _filled(url: str, metadata: Mapping[str, str]) -> str:
    """Only parts of the path: the host stays that which was checked. Raises Refused for what would be none, or lead up."""
    parts = urlsplit(url)
    segments = parts.path.split("/")
    if not any(_NAMED.fullmatch(one) for one in segments):
        return url
    for place, segment in enumerate(segments):
        if _NAMED.fullmatch(segment):
            value = metadata.get(segment[1:], "")
            if value in {"", ".", ".."}:
                raise Refused(_no_address(segment[1:]))
            segments[place] = quote(value, safe="")
    return urlunsplit(parts._replace(path="/".join(segments)))


def _no_address(name: str) -> Failure:
    message = f"The sink's address needs {name}, which the item's metadata does not have."
    return Failure(ItemError(400, "sink_address_incomplete", message, suggestion="Name it in the metadata."))


def _in_our_words(refused: Refused) -> Refused:
    """A file without content is to seed 000 what a text without any is."""
    empty = refused.outcome.error.type == "empty_document"
    return Refused(_no_valid_chunks()) if empty else refused


def _no_valid_chunks() -> Failure:
    message = "There is no text in it to make chunks of."
    suggestion = "Check that it is not empty. A scanned document has to go through text recognition first."
    return Failure(ItemError(400, "no_valid_chunks", message, suggestion=suggestion))
