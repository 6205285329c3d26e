"""Deletes what `table_extraction` has stored of a document."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, Field, StringConstraints

from gristmill.domain.outcomes import Outcome, Success
from gristmill.processors.base import Context, Processor
from gristmill.processors.fields import CanonicalUUID


class DeletionConfig(BaseModel):
    collection: Annotated[
        str,
        StringConstraints(min_length=1, max_length=256),
        Field(description="Of the batches whose tables go"),
    ]


class DeletionInput(BaseModel):
    """The file need not exist any more."""

    file_id: CanonicalUUID = Field(
        description="The custom_id of the extractions, as in batches of a directory"
    )
    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


class TableDeletion(Processor[DeletionInput, DeletionConfig]):
    name: ClassVar[str] = "table_deletion"
    description: ClassVar[str] = "Deletes the tables that table_extraction has stored of a file."
    input_model = DeletionInput
    config_model = DeletionConfig

    def item_name(self, given: DeletionInput) -> str | None:
        return given.filename

    async def run(self, given: DeletionInput, context: Context[DeletionConfig]) -> Outcome:
        """Of extractions that have ended; one that is still running stores its tables later."""
        forget = context.services.forget_tables
        return Success(
            {"extractions": await forget(context.tenant_id, context.config.collection, given.file_id)}
        )
