"""Document to pairs of question and answer, each with the passage it rests on. What stands nowhere in the document is dropped."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from gristmill.documents.chunks import Chunk, Strategy
from gristmill.domain.outcomes import Outcome, Success
from gristmill.processors import documents, output_schema, reading, refusals
from gristmill.processors.base import Context, Processor
from gristmill.processors.documents import DocumentInput, PageRange
from gristmill.processors.questions import Answers, Question, ask_all
from gristmill.processors.reading import Reading
from gristmill.processors.refusals import Refused
from gristmill.processors.structured import Asking
from gristmill.upstream.errors import UpstreamError

SHORTEST_PASSAGE = 8  # characters that are no white space: less stands anywhere
SHORTEST_CHUNK = 40  # likewise: a heading alone makes no question
_QUESTION, _ANSWER, _PASSAGE = 300, 1000, 1000  # characters, at most
_DROPS = ("incomplete", "passage_not_found", "duplicate", "beyond_limit")


class QaConfig(PageRange):
    pairs_per_chunk: Annotated[int, Field(ge=1, le=20, description="At most")] = 3
    max_pairs: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Of one document. Where its chunks could make more, some of them are asked about, "
            "evenly spread",
        ),
    ] = 100
    chunking_strategy: Annotated[
        Strategy,
        Field(description="basic: sentences; by_title: a heading begins a new chunk; none: the whole text"),
    ] = "by_title"
    max_characters: Annotated[int, Field(ge=200, le=100_000, description="No chunk is longer")] = 4000
    new_after: Annotated[
        int, Field(ge=1, le=100_000, description="A chunk that has so many characters is full")
    ] = 3000
    language: Annotated[str, Field(min_length=1, max_length=35)] | None = Field(
        None, description="Of questions and answers; null: the document's"
    )
    instructions: Annotated[str, Field(max_length=10_000, description="What the questions are for")] = ""
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="null: the service's"
    )
    parameters: Annotated[
        dict[str, Any], Field(max_length=32, description="Passed through: temperature, max_tokens, …")
    ] = Field(default_factory=dict)


class QaGeneration(Processor[DocumentInput, QaConfig]):
    name: ClassVar[str] = "qa_generation"
    description: ClassVar[str] = "Makes questions and answers of a document, with the passage each rests on."
    input_model = DocumentInput
    config_model = QaConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"QA_DEFAULT": {}}
    uses_parser: ClassVar[bool] = True
    uses_upstream: ClassVar[bool] = True
    uses_checkpoints: ClassVar[bool] = True

    def item_name(self, given: DocumentInput) -> str | None:
        return documents.name_of(given)

    async def run(self, given: DocumentInput, context: Context[QaConfig]) -> Outcome:
        config = context.config
        try:
            upstream = refusals.configured(context.services.upstream)
            model = refusals.model_of(upstream, config.model)
            read = await reading.read(given, context, config)
            found = await reading.chunked(
                read, config.max_characters, config.new_after, config.chunking_strategy
            )
        except Refused as refused:
            return refused.outcome
        asking = Asking(upstream, model, context.idempotency_key, config.parameters)
        chosen = _chosen(found, config)
        questions = [Question(_instructions(read, chunk, config), chunk.text) for chunk in chosen]
        schema = output_schema.of(_schema(config.pairs_per_chunk))
        try:
            answers = await ask_all(context, asking, questions, schema, read.digest)
        except UpstreamError as error:
            return error.outcome(asking.usage)
        output = await asyncio.to_thread(_output, read, len(found), chosen, answers, config)
        return Success(output, usage=asking.usage)


def _chosen(found: Sequence[Chunk], config: QaConfig) -> list[Chunk]:
    """Those long enough, and of these no more than `max_pairs` needs, evenly spread from the first on."""
    long_enough = [chunk for chunk in found if len("".join(chunk.text.split())) >= SHORTEST_CHUNK]
    worth = long_enough or list(found)
    needed = min(len(worth), math.ceil(config.max_pairs / config.pairs_per_chunk))
    return [worth[number * len(worth) // needed] for number in range(needed)]


def _instructions(read: Reading, chunk: Chunk, config: QaConfig) -> str:
    code = config.language or read.document.language
    language = f"the language with the code {code}" if code else "the language of the text"
    lines = [
        f"The user's message is an excerpt of a document. Write up to {config.pairs_per_chunk} pairs of a question "
        "and its answer that the excerpt gives. Each question must make sense to somebody who does not see the "
        "excerpt. Say nothing that the excerpt does not say.",
        f"Write questions and answers in {language}.",
        "passage is the sentence or sentences of the excerpt that the answer rests on, copied word for word.",
    ]
    if chunk.heading:
        lines.append(f"The excerpt stands under the heading: {chunk.heading[:200]}")
    return "\n".join([*lines, config.instructions] if config.instructions.strip() else lines)


def _schema(pairs_per_chunk: int) -> dict[str, Any]:
    """The bounds also keep small models from running on for ever within a text."""
    lengths = {"question": _QUESTION, "answer": _ANSWER, "passage": _PASSAGE}
    pair = {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": most} for name, most in lengths.items()},
        "required": list(lengths),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"pairs": {"type": "array", "items": pair, "maxItems": pairs_per_chunk}},
        "required": ["pairs"],
        "additionalProperties": False,
    }


# --- what is kept ---------------------------------------------------------------------------------------------


@dataclass
class _Sieve:
    """Lets a pair through, or counts why not."""

    read: Reading
    most: int
    counts: Counter[str]
    asked: set[str]

    def kept(self, pair: dict[str, str], chunk: Chunk) -> dict[str, Any] | None:
        question, answer, passage = (pair[name].strip() for name in ("question", "answer", "passage"))
        place = None
        if len("".join(passage.split())) >= SHORTEST_PASSAGE:
            place = self.read.find(passage, chunk.start, chunk.start + len(chunk.text))
        same = " ".join("".join(c if c.isalnum() else " " for c in question.casefold()).split())
        if not (question and answer and passage):
            reason = "incomplete"
        elif place is None:
            reason = "passage_not_found"
        elif same in self.asked:
            reason = "duplicate"
        elif len(self.asked) >= self.most:
            reason = "beyond_limit"
        else:
            self.asked.add(same)
            said = {"question": question, "answer": answer, "passage": self.read.text(place)}
            return said | place.as_json() | {"heading": chunk.heading, "chunk": chunk.index}
        self.counts[reason] += 1
        return None


def _output(
    read: Reading, chunk_count: int, chosen: Sequence[Chunk], answers: Answers, config: QaConfig
) -> dict[str, Any]:
    sieve = _Sieve(read, config.max_pairs, Counter(), set())
    given = list(_pairs(chosen, answers))
    pairs = [one for pair, chunk in given if (one := sieve.kept(pair, chunk))]
    return {
        "pairs": pairs,
        "document": read.shown(),
        "chunks": chunk_count,
        "chunks_asked": len(chosen),
        "asked_again": answers.asked_again,
        "pairs_given": len(given),
        "dropped": {name: sieve.counts[name] for name in _DROPS},
    }


def _pairs(chosen: Sequence[Chunk], answers: Answers) -> Iterator[tuple[dict[str, str], Chunk]]:
    for chunk, value in zip(chosen, answers.values, strict=True):
        for pair in value["pairs"]:
            yield pair, chunk
