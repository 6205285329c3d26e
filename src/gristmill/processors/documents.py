"""Documents as inputs: how an item names one, and the way from there to its pages."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, StringConstraints, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from gristmill.documents import Document, Page, ParserPool
from gristmill.documents import Refused as NotRead
from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.domain.sources import FileSource, LocalSource, ObjectSource, OpenSource, Source, UrlSource
from gristmill.processors.base import Context
from gristmill.processors.fields import CanonicalUUID, guarded
from gristmill.processors.refusals import Refused

SourceType = Literal["url", "local", "s3", "minio"]

# Of all text in an output, in UTF-8: a book of 1,000 pages has 3 MB. Writing more would hold up the event loop.
MAX_OUTPUT_BYTES = 8 * 1024 * 1024
MAX_PAGE = 10_000  # documents/limits.py: no document has more

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


class PageRange(BaseModel):
    """Which pages of a document are wanted, for the configuration of a processor."""

    first_page: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 1
    last_page: Annotated[int, Field(ge=1, le=MAX_PAGE)] | None = Field(None, description="null: the last")
    max_pages: Annotated[int, Field(ge=1, le=MAX_PAGE)] | None = Field(
        None, description="Of these at most so many, from the first on"
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.last_page is not None and self.last_page < self.first_page:
            raise PydanticCustomError("page_range", "last_page comes before first_page")
        return self

    @property
    def last_wanted(self) -> int | None:
        """None: to the end, however far that is."""
        ends = [self.last_page, self.max_pages and self.first_page + self.max_pages - 1]
        return min((end for end in ends if end is not None), default=None)

    def of(self, document: Document) -> Document:
        """The document with these pages only. Raises Refused if there are none."""
        last = self.last_wanted or document.page_count
        pages = tuple(page for page in document.pages if self.first_page <= page.number <= last)
        if not pages:
            message = f"The document has {document.page_count} pages: none from {self.first_page} on."
            suggestion = "Choose a lower first_page."
            raise Refused(Failure(ItemError(400, "no_such_page", message, suggestion=suggestion)))
        return replace(document, pages=pages, total_pages=document.page_count)


def name_of(given: DocumentInput) -> str | None:
    """The file's name as far as the input tells it; that of an uploaded file is known to its row only."""
    if given.filename is not None or given.source is None:
        return given.filename
    path = urlsplit(given.source).path if given.source_type == "url" else given.source
    return unquote(path).rstrip("/").rpartition("/")[2] or None


async def read(
    given: DocumentInput, context: Context[Any], *, last_page: int | None = None
) -> tuple[Document, str | None]:
    """The document, and what its owner calls it. Pages behind `last_page` may be left out. Raises Refused, SourceRefused."""
    if given.text is not None:
        return _of_text(given.text), given.filename
    async with opened(given, context) as found:
        filename = given.filename or found.filename
        try:
            return await parser_of(context).parse(found.path, filename, last_page=last_page), filename
        except NotRead as refused:
            raise not_read(refused) from None


def opened(given: DocumentInput, context: Context[Any]) -> AbstractAsyncContextManager[OpenSource]:
    """The file of a document that is no text, on this host for the time of the block. Raises SourceRefused."""
    return context.services.open_source(context.tenant_id, _source(given))


def _source(given: DocumentInput) -> Source:
    if given.file_id is not None:
        return FileSource(given.file_id)
    source = given.source or ""
    match given.source_type:
        case "url":
            return UrlSource(source)
        case "local":
            return LocalSource(source)
    return ObjectSource(source)


def _of_text(text: str) -> Document:
    return Document("text/plain", (Page(1, text, text),))


def parser_of(context: Context[Any]) -> ParserPool:
    """Raises documents.Refused."""
    if context.services.parser is None:
        raise NotRead("parser_unavailable")
    return context.services.parser


def too_much(texts: Iterable[str]) -> bool:
    """Whether they are together more than an output may have. Stops counting as soon as that is clear."""
    size = 0
    for text in texts:
        size += 4 + (
            len(text) if len(text) > MAX_OUTPUT_BYTES else len(text.encode())
        )  # 4: quotes and the like
        if size > MAX_OUTPUT_BYTES:
            return True
    return False


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
