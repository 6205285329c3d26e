"""Items that were refused when their batch was made: they have failed before anything ran, and never run."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.states import ResultStatus

CODE: Literal[400] = 400
_COLUMNS = ("batch_id", "ordinal", "status", "code", "attempt", "error")


async def record(tx: Transaction, batch_id: UUID, refused: Sequence[tuple[int, str]]) -> None:
    """Results of a new batch: (ordinal, error as JSON). `store/batches.create` counts them."""
    await tx.copy_records_to_table(
        "result",
        columns=_COLUMNS,
        records=[(batch_id, ordinal, ResultStatus.FAILED, CODE, 0, error) for ordinal, error in refused],
    )
