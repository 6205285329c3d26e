"""Document or text to JSON that validates against the caller's schema."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import ConfigDict, Field

from gristmill.documents.chunks import Chunk
from gristmill.domain.outcomes import Outcome, Success
from gristmill.processors import documents, output_schema, reading, refusals
from gristmill.processors.base import Context, Processor
from gristmill.processors.documents import DocumentInput, PageRange
from gristmill.processors.merging import for_a_part, merged
from gristmill.processors.output_schema import JsonSchema, OutputSchema
from gristmill.processors.questions import Question, ask_all
from gristmill.processors.reading import Reading
from gristmill.processors.refusals import Refused
from gristmill.processors.structured import Asking
from gristmill.upstream.errors import UpstreamError

MAX_PLACES = 500  # values of which it is said where they stand
SHORTEST_VALUE = 4  # characters that are no white space: less stands anywhere
_CHUNK_CHARACTERS = 4000  # parts begin and end where chunks of this size do

DEFAULT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": ["string", "null"], "maxLength": 300},
        "summary": {"type": "string", "maxLength": 1500, "description": "In one to five sentences"},
        "dates": {
            "type": "array",
            "maxItems": 50,
            "items": {
                "type": "object",
                "properties": {
                    "date": {"type": "string", "maxLength": 40, "description": "As the document has it"},
                    "what": {"type": "string", "maxLength": 300},
                },
                "required": ["date", "what"],
                "additionalProperties": False,
            },
        },
        "people": {"type": "array", "maxItems": 50, "items": {"type": "string", "maxLength": 200}},
        "organisations": {"type": "array", "maxItems": 50, "items": {"type": "string", "maxLength": 200}},
        "keys": {
            "type": "array",
            "maxItems": 50,
            "description": "Numbers, amounts, versions and other marks that the document is about",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 100},
                    "value": {"type": "string", "maxLength": 300},
                },
                "required": ["name", "value"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["title", "summary", "dates", "people", "organisations", "keys"],
    "additionalProperties": False,
}


class ExtractConfig(PageRange):
    model_config = ConfigDict(serialize_by_alias=True)

    output_schema: JsonSchema = Field(alias="schema")
    instructions: Annotated[str, Field(max_length=10_000, description="What to look for, and how")] = ""
    max_characters: Annotated[
        int,
        Field(ge=500, le=400_000, description="Shown to the model at a time: as many as its context takes"),
    ] = 20_000
    max_parts: Annotated[
        int,
        Field(ge=1, le=100, description="Parts of that size; what a document has beyond them is left out"),
    ] = 10
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="null: the service's"
    )
    parameters: Annotated[
        dict[str, Any], Field(max_length=32, description="Passed through: temperature, max_tokens, …")
    ] = Field(default_factory=dict)


class Extract(Processor[DocumentInput, ExtractConfig]):
    name: ClassVar[str] = "extract"
    description: ClassVar[str] = "Reads JSON by your schema out of a document or text."
    input_model = DocumentInput
    config_model = ExtractConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"EXTRACT_DEFAULT": {"schema": DEFAULT_SCHEMA}}
    uses_parser: ClassVar[bool] = True
    uses_upstream: ClassVar[bool] = True
    uses_checkpoints: ClassVar[bool] = True

    def item_name(self, given: DocumentInput) -> str | None:
        return documents.name_of(given)

    async def run(self, given: DocumentInput, context: Context[ExtractConfig]) -> Outcome:
        config = context.config
        try:
            upstream = refusals.configured(context.services.upstream)
            model = refusals.model_of(upstream, config.model)
            read = await reading.read(given, context, config)
            parts = await _parts(read, config.max_characters)
        except Refused as refused:
            return refused.outcome
        asking = Asking(upstream, model, context.idempotency_key, config.parameters)
        shown = parts[: config.max_parts]
        try:
            data, asked_again = await _data(read, shown, asking, context)
        except UpstreamError as error:
            return error.outcome(asking.usage)
        output = {
            "data": data,
            "places": await asyncio.to_thread(_places, read, data),
            "document": read.shown(),
            "parts": len(shown),
            "parts_left_out": len(parts) - len(shown),
            "asked_again": asked_again,
        }
        return Success(output, orjson.dumps(data).decode(), asking.usage)


async def _parts(read: Reading, max_characters: int) -> list[str]:
    """The whole if it fits, else as few parts as chunks fill. Raises Refused."""
    whole = read.document.markdown
    if len(whole) <= max_characters:
        return [whole]
    size = min(max_characters, _CHUNK_CHARACTERS)
    chunks = await reading.chunked(read, size, size * 3 // 4)
    return list(_packed(whole, chunks, max_characters))


def _packed(whole: str, chunks: Sequence[Chunk], max_characters: int) -> Iterator[str]:
    start, end = chunks[0].start, chunks[0].start
    for chunk in chunks:
        chunk_end = chunk.start + len(chunk.text)
        if chunk_end - start > max_characters:
            yield whole[start:end]
            start = chunk.start
        end = chunk_end
    yield whole[start:end]


async def _data(
    read: Reading, parts: Sequence[str], asking: Asking, context: Context[ExtractConfig]
) -> tuple[Any, int]:
    """The value that validates, and how often the model had to be asked again. Raises UpstreamError."""
    config = context.config
    schema = output_schema.of(config.output_schema)
    of_a_part = schema
    if len(parts) > 1:
        of_a_part = output_schema.of(for_a_part(config.output_schema))
    questions = [
        Question(_instructions(config, number, len(parts)), part) for number, part in enumerate(parts, 1)
    ]
    answers = await ask_all(context, asking, questions, of_a_part, read.digest)
    data = merged(schema.schema, answers.values) if len(parts) > 1 else answers.values[0]
    if not schema.flaws(data, 1):
        return data, answers.asked_again
    before = asking.asked_again
    data = await _completed(data, schema, asking, config)
    return data, answers.asked_again + asking.asked_again - before


def _instructions(config: ExtractConfig, number: int, count: int) -> str:
    lines = [
        "The user's message is a document. Extract from it what the schema asks for. Take what the document says, "
        "and do not invent anything: leave texts and lists empty, or say null, where it says nothing.",
    ]
    if count > 1:
        lines = [
            f"The user's message is part {number} of {count} of a document. Extract from it what the schema asks for. "
            "Take what this part says, and do not invent anything: leave out what it does not tell.",
        ]
    return "\n".join([*lines, config.instructions] if config.instructions.strip() else lines)


async def _completed(data: Any, schema: OutputSchema, asking: Asking, config: ExtractConfig) -> Any:
    """What was collected does not validate as a whole, as where no part tells of a property: one call more."""
    text = orjson.dumps(data).decode()[: config.max_characters]
    lines = [
        "The user's message is JSON that was collected from parts of one document. Bring it into the form of the "
        "schema. Keep what it says, and do not invent anything.",
        config.instructions,
    ]
    return await asking.ask("\n".join(filter(None, lines)), text, schema)


# --- where it came from ---------------------------------------------------------------------------------------


def _places(read: Reading, data: Any) -> list[dict[str, Any]]:
    """Of texts in the value that stand in the document word for word: where its first occurrence is."""
    found: list[dict[str, Any]] = []
    for pointer, text in _texts(data, ""):
        if len(re.sub(r"\s", "", text)) < SHORTEST_VALUE:
            continue
        place = read.find(text)
        if place is not None:
            found.append({"at": pointer} | place.as_json())
        if len(found) == MAX_PLACES:
            break
    return found


def _texts(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{pointer}/{index}")
