"""Document to text, Markdown, tables and metadata, page by page; on request the model mends the Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gristmill.documents import Document, Page
from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success
from gristmill.processors import documents
from gristmill.processors.base import Context, Processor
from gristmill.processors.documents import MAX_OUTPUT_BYTES, DocumentInput, PageRange
from gristmill.processors.mending import Mended, mend
from gristmill.processors.refusals import Refused
from gristmill.processors.tables import Tables, of_document


class ParseConfig(PageRange):
    mode: Annotated[
        Literal["fast", "agentic"],
        Field(
            description="fast: what the file holds as text. agentic: the model then mends the Markdown, page by page. "
            "Neither reads pictures: scanned pages are reported as such"
        ),
    ] = "fast"
    text: Annotated[bool, Field(description="Plain text of every page")] = True
    markdown: Annotated[bool, Field(description="Markdown of every page")] = True
    tables: Annotated[Tables | None, Field(description="Tables as rows, as CSV, or both; null: none")] = None
    content: Annotated[
        Literal["markdown", "text", "none"], Field(description="What response_content holds")
    ] = "markdown"
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="In the mode agentic; null: the service's"
    )


class Parse(Processor[DocumentInput, ParseConfig]):
    name: ClassVar[str] = "parse"
    description: ClassVar[str] = "Reads a document: text, Markdown, tables, metadata, page by page."
    input_model = DocumentInput
    config_model = ParseConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "PARSE_FAST": {"mode": "fast"},
        "PARSE_AGENTIC": {"mode": "agentic"},
    }
    uses_parser: ClassVar[bool] = True
    uses_upstream: ClassVar[bool] = True
    uses_checkpoints: ClassVar[bool] = True

    def depends_on(self, config: ParseConfig) -> str | None:
        return super().depends_on(config) if config.mode == "agentic" else None

    def item_name(self, given: DocumentInput) -> str | None:
        return documents.name_of(given)

    async def run(self, given: DocumentInput, context: Context[ParseConfig]) -> Outcome:
        config = context.config
        try:
            document, filename = await documents.read(given, context, last_page=config.last_wanted)
            document = config.of(document)
            mended = await mend(document, config.model, context) if config.mode == "agentic" else None
        except Refused as refused:
            return refused.outcome
        if mended is not None:
            document = replace(document, pages=mended.pages)
        if documents.too_much(_texts(document.pages, config)):
            return Failure(_too_large(document))
        return _parsed(document, filename, config, mended)


def _parsed(document: Document, filename: str | None, config: ParseConfig, mended: Mended | None) -> Success:
    output: dict[str, Any] = {
        "media_type": document.media_type,
        "filename": filename,
        "metadata": document.metadata,
        "language": document.language,
        "page_count": document.page_count,
        "scanned": document.scanned,
        "pages": [_page(page, config) for page in document.pages],
    }
    if config.tables is not None:
        output["tables"] = of_document(document, config.tables)
    if mended is not None:
        output["mended"] = mended.as_json()
    content = None if config.content == "none" else getattr(document, config.content)
    return Success(output, content, mended.usage if mended else None)


def _page(page: Page, config: ParseConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {"number": page.number, "scanned": page.scanned}
    if config.text:
        shown["text"] = page.text
    if config.markdown:
        shown["markdown"] = page.markdown
    return shown


def _texts(pages: Sequence[Page], config: ParseConfig) -> Iterator[str]:
    times = 2 if config.tables == "both" else 1
    for page in pages:
        for kind, wanted in (("text", config.text), ("markdown", config.markdown)):
            yield from [getattr(page, kind)] * (wanted + (config.content == kind))
        if config.tables is not None:
            yield from (cell for table in page.tables for row in table.rows for cell in row * times)


def _too_large(document: Document) -> ItemError:
    message = (
        f"What was asked for of {len(document.pages)} pages is larger than {MAX_OUTPUT_BYTES // 2**20} MiB."
    )
    suggestion = (
        "Read the document in several requests, with first_page and last_page, or leave out text or markdown."
    )
    return ItemError(400, "output_too_large", message, suggestion=suggestion)
