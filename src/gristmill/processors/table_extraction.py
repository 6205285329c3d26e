"""Document to tables: rows, CSV, and the page each stands on."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from gristmill.documents import Document, Table
from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success
from gristmill.processors import documents
from gristmill.processors.base import Context, Processor
from gristmill.processors.documents import MAX_OUTPUT_BYTES, DocumentInput, PageRange
from gristmill.processors.refusals import Refused
from gristmill.processors.tables import Tables, shown

MAX_TABLES = 10_000


class TableConfig(PageRange):
    form: Annotated[Tables, Field(description="Each table as rows, as CSV, or both")] = "both"
    min_rows: Annotated[int, Field(ge=1, le=1000, description="Smaller tables are left out")] = 1
    min_columns: Annotated[int, Field(ge=1, le=1000)] = 1


class TableInput(DocumentInput):
    @model_validator(mode="after")
    def _is_a_file(self) -> Self:
        if self.text is not None:
            raise PydanticCustomError("no_file", "A text has no tables: give a file_id or a source")
        return self


class TableExtraction(Processor[TableInput, TableConfig]):
    name: ClassVar[str] = "table_extraction"
    description: ClassVar[str] = "Finds the tables of a document: rows, CSV, and the page each stands on."
    input_model = TableInput
    config_model = TableConfig
    uses_parser: ClassVar[bool] = True

    def item_name(self, given: TableInput) -> str | None:
        return documents.name_of(given)

    async def run(self, given: TableInput, context: Context[TableConfig]) -> Outcome:
        config = context.config
        try:
            document, filename = await documents.read(given, context, last_page=config.last_wanted)
            document = config.of(document)
        except Refused as refused:
            return refused.outcome
        found = [table for table in document.tables if _wanted(table, config)]
        if len(found) > MAX_TABLES or documents.too_much(_texts(found, config)):
            return Failure(_too_large(len(found)))
        return Success(_extracted(document, filename, found, context))


def _extracted(
    document: Document, filename: str | None, found: list[Table], context: Context[TableConfig]
) -> dict[str, Any]:
    """A table's id is the same on every attempt, and no other item's table has it."""
    origin = f"{context.batch_id}-{context.ordinal}"
    tables = [shown(index, table, context.config.form, origin) for index, table in enumerate(found)]
    return {
        "media_type": document.media_type,
        "filename": filename,
        "page_count": document.page_count,
        "scanned_pages": [page.number for page in document.pages if page.scanned],
        "table_count": len(tables),
        "tables": tables,
    }


def _wanted(table: Table, config: TableConfig) -> bool:
    return len(table.rows) >= config.min_rows and max(map(len, table.rows), default=0) >= config.min_columns


def _texts(tables: list[Table], config: TableConfig) -> Iterator[str]:
    for table in tables:
        for row in table.rows:
            yield from row * (2 if config.form == "both" else 1)


def _too_large(count: int) -> ItemError:
    message = (
        f"Its {count} tables are more than {MAX_TABLES:,}, or larger than {MAX_OUTPUT_BYTES // 2**20} MiB."
    )
    suggestion = "Extract them in several requests, with first_page and last_page, or as rows only."
    return ItemError(400, "output_too_large", message, suggestion=suggestion)
