"""Items that were refused when their batch was made: they have failed before anything ran, and never run."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.states import ResultStatus

CODE: Literal[400] = 400
_COLUMNS = ("batch_id", "ordinal", "status", "code", "attempt", "error")


_LOG = """
INSERT INTO result_log (batch_id, run, upto, ordinals)
SELECT $1, 1, coalesce(max(upto), 0) + cardinality($2::int[]), $2::int[] FROM result_log WHERE batch_id = $1
"""


async def record(tx: Transaction, batch_id: UUID, refused: Sequence[tuple[int, str]]) -> None:
    """Results of a new batch: (ordinal, error as JSON). `store/new_batches.create` counts them."""
    await tx.copy_records_to_table(
        "result",
        columns=_COLUMNS,
        records=[(batch_id, ordinal, ResultStatus.FAILED, CODE, 0, error) for ordinal, error in refused],
    )
    await tx.execute(_LOG, batch_id, [ordinal for ordinal, _ in refused])
