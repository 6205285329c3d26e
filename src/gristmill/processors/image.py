"""What kind of image it is, how large, and whether it matters: first by its size and shape, then by the model's eyes."""

import asyncio
import base64
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gristmill.documents import Picture
from gristmill.documents import Refused as NotRead
from gristmill.domain.outcomes import Outcome, Success
from gristmill.domain.sources import OpenSource
from gristmill.domain.usage import Usage
from gristmill.processors import documents, output_schema, refusals
from gristmill.processors.base import Context, Processor
from gristmill.processors.documents import DocumentInput
from gristmill.processors.refusals import Refused
from gristmill.processors.structured import Asking
from gristmill.upstream.errors import UpstreamError

MAX_CONTENT_BYTES = 6 * 1024 * 1024  # shown as Base64, which is a third longer: within MAX_OUTPUT_BYTES
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=2000)]

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "important": {"type": "boolean"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["important", "confidence"],
    "additionalProperties": False,
}


class ImageConfig(BaseModel):
    min_width: Annotated[int, Field(ge=1, le=10_000, description="Smaller images are not important")] = 200
    min_height: Annotated[int, Field(ge=1, le=10_000)] = 200
    max_aspect: Annotated[
        float, Field(ge=1, le=1000, description="Longer side to shorter: beyond it are banners and lines")
    ] = 5.0
    judge: Annotated[bool, Field(description="Whether the model is asked about what the rules let pass")] = (
        True
    )
    positive_prompt: Annotated[Prompt, Field(description="What important images show")] = "an important image"
    negative_prompt: Annotated[Prompt, Field(description="What the others show")] = "an unimportant image"
    content: Annotated[bool, Field(description="Whether the output has the file itself, as Base64")] = False
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="One that takes images; null: the service's"
    )
    parameters: Annotated[
        dict[str, Any], Field(max_length=32, description="Passed through: temperature, max_tokens, …")
    ] = Field(default_factory=dict)


class ImageInput(DocumentInput):
    @model_validator(mode="after")
    def _is_a_file(self) -> Self:
        if self.text is not None:
            raise PydanticCustomError("no_file", "A text is no image: give a file_id or a source")
        return self


class Image(Processor[ImageInput, ImageConfig]):
    name: ClassVar[str] = "image"
    description: ClassVar[str] = "Tells an image's kind and size, and whether it is important."
    input_model = ImageInput
    config_model = ImageConfig
    uses_parser: ClassVar[bool] = True
    uses_upstream: ClassVar[bool] = True

    def item_name(self, given: ImageInput) -> str | None:
        return documents.name_of(given)

    async def run(self, given: ImageInput, context: Context[ImageConfig]) -> Outcome:
        try:
            async with documents.opened(given, context) as opened:
                picture, data = await _looked_at(opened, context)
        except Refused as refused:
            return refused.outcome
        output: dict[str, Any] = {
            "media_type": picture.media_type,
            "filename": given.filename or opened.filename,
            "bytes": len(data),
            "width": picture.width,
            "height": picture.height,
        }
        if context.config.content:
            output["content"] = base64.b64encode(data).decode() if len(data) <= MAX_CONTENT_BYTES else None
        try:
            importance, usage = await _importance(picture, data, context)
        except UpstreamError as error:
            return error.outcome()
        return Success(output | {"importance": importance}, usage=usage)


async def _looked_at(opened: OpenSource, context: Context[ImageConfig]) -> tuple[Picture, bytes]:
    """Raises Refused."""
    try:
        picture = await documents.parser_of(context).look(opened.path)
    except NotRead as refused:
        raise documents.not_read(refused) from None
    return picture, await asyncio.to_thread(opened.path.read_bytes)  # 20 MiB at most: else it was refused


async def _importance(
    picture: Picture, data: bytes, context: Context[ImageConfig]
) -> tuple[dict[str, Any], Usage | None]:
    """`judged`: whether anybody has decided. Raises UpstreamError where asking again may help."""
    reason = _rule(picture, context.config)
    if reason is not None:
        return _said(False, 1.0, reason), None
    if not context.config.judge:
        return _not_judged("not_asked"), None
    try:
        upstream = refusals.configured(context.services.upstream)
        model = refusals.model_of(upstream, context.config.model)
    except Refused as refused:
        return _not_judged(refused.outcome.error.type), None
    asking = Asking(upstream, model, context.idempotency_key, context.config.parameters)
    try:
        answer = await asking.ask(
            _instructions(context.config), _parts(picture, data), output_schema.of(_SCHEMA)
        )
    except UpstreamError as error:
        if error.error.retryable and error.error.type != "invalid_output":
            raise
        return _not_judged(error.error.type), asking.usage  # such as a model that takes no images
    return _said(answer["important"], float(answer["confidence"]), "judged_by_model"), asking.usage


def _rule(picture: Picture, config: ImageConfig) -> str | None:
    if picture.width < config.min_width or picture.height < config.min_height:
        return "too_small"
    sides = sorted((picture.width, picture.height))
    return "too_elongated" if sides[1] > config.max_aspect * sides[0] else None


def _instructions(config: ImageConfig) -> str:
    return (
        "The user's message is an image out of a document or a web page. Say whether it is important.\n"
        f"Important images show: {config.positive_prompt}\nThe others show: {config.negative_prompt}\n"
        "confidence, from 0 to 1, says how sure you are."
    )


def _parts(picture: Picture, data: bytes) -> list[dict[str, Any]]:
    url = f"data:{picture.media_type};base64,{base64.b64encode(data).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}]


def _said(important: bool, confidence: float, reason: str) -> dict[str, Any]:
    return {"judged": True, "is_important": important, "confidence": confidence, "reason": reason}


def _not_judged(reason: str) -> dict[str, Any]:
    return {"judged": False, "is_important": None, "confidence": None, "reason": reason}
