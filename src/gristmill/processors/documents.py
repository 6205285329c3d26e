"""Documents as inputs: how an item names one, and the way from there to its pages."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from gristmill.documents import Document, Page, ParserPool
from gristmill.documents import Refused as NotRead
from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.domain.sources import FileSource, LocalSource, ObjectSource, Source, UrlSource
from gristmill.processors.base import Context
from gristmill.processors.fields import CanonicalUUID, guarded
from gristmill.processors.refusals import Refused

SourceType = Literal["url", "local", "s3", "minio"]

_THE_SERVICES_OWN = frozenset({"extra_missing", "parser_unavailable"})  # no fault of the document


class DocumentInput(BaseModel):
    """One document: `text`, a file by `file_id`, or a `source` with its `source_type`."""

    text: str | None = None
    file_id: CanonicalUUID | None = Field(None, description="Of POST /api/v1/files")
    source: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        None, description="A URL, a path below GRISTMILL_LOCAL_ROOT, or a key below GRISTMILL_S3_ROOT"
    )
    source_type: SourceType | None = None
    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        None, description="null: as the source has it"
    )

    @model_validator(mode="after")
    def _is_one(self, info: ValidationInfo) -> Self:
        if sum(one is not None for one in (self.text, self.file_id, self.source)) != 1:
            raise PydanticCustomError("one_document", "Give exactly one of text, file_id and source")
        if (self.source is None) != (self.source_type is None):
            raise PydanticCustomError("source_type", "source and source_type go together")
        if self.source is not None and self.source_type == "url":
            guarded(self.source, info)
        return self


async def read(given: DocumentInput, context: Context[Any]) -> tuple[Document, str | None]:
    """The document, and what its owner calls it. Raises Refused, SourceRefused."""
    source = _source(given)
    if source is None:
        return _of_text(given.text or ""), given.filename
    async with context.services.open_source(context.tenant_id, source) as opened:
        filename = given.filename or opened.filename
        try:
            return await _parser(context).parse(opened.path, filename), filename
        except NotRead as refused:
            raise not_read(refused) from None


def _source(given: DocumentInput) -> Source | None:
    """None: the text itself is the document."""
    if given.file_id is not None:
        return FileSource(given.file_id)
    if given.source is None:
        return None
    match given.source_type:
        case "url":
            return UrlSource(given.source)
        case "local":
            return LocalSource(given.source)
    return ObjectSource(given.source)


def _of_text(text: str) -> Document:
    return Document("text/plain", (Page(1, text, text),))


def _parser(context: Context[Any]) -> ParserPool:
    if context.services.parser is None:
        raise NotRead("parser_unavailable")
    return context.services.parser


def not_read(refused: NotRead) -> Refused:
    """What an item ends with, or is tried again for, whose document was refused."""
    error = ItemError(
        500 if refused.code in _THE_SERVICES_OWN else 400,
        refused.code,
        refused.message,
        retryable=refused.retryable,
        suggestion=refused.suggestion,
    )
    return Refused(Retry(error) if refused.retryable else Failure(error))
