"""Collections: what the batches of one have come to, document by document, whichever of them it was.

A document is known by its file's id, which is the custom id of its items, as it is in batches of a directory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.states import TERMINAL, ResultStatus

_DOCUMENTS = """
    FROM batch b JOIN item i ON i.batch_id = b.id
    WHERE b.tenant_id = $1 AND b.collection = $2 AND i.custom_id = ANY ($3)
"""


@dataclass(frozen=True, slots=True)
class Failed:
    """A document's newest item for its processor, which failed in a batch that has ended. `config`, `input`: JSON text."""

    batch_id: UUID
    custom_id: str
    processor: str
    config: str
    input: str


# Refused items would be refused again, and batches with secrets of their own need them again from whoever has them.
_FAILED = f"""
SELECT n.batch_id, n.custom_id, n.processor, n.config, n.input FROM (
    SELECT DISTINCT ON (b.processor, i.custom_id) b.id AS batch_id, i.ordinal, i.custom_id, b.processor, b.config, i.input,
        b.status, b.config_secrets IS NULL AND b.upstream IS NULL AS open
    {_DOCUMENTS} AND b.processor = ANY ($4)
    ORDER BY b.processor, i.custom_id, b.id DESC
) n JOIN result r ON r.batch_id = n.batch_id AND r.ordinal = n.ordinal
WHERE r.status = {ResultStatus.FAILED:d} AND NOT (r.code = 400 AND r.attempt = 0) AND n.status = ANY ($5) AND n.open
ORDER BY n.batch_id, n.ordinal
"""


async def failed(
    connection: Transaction,
    tenant_id: UUID,
    collection: str,
    file_ids: Sequence[str],
    processors: Sequence[str],
) -> list[Failed]:
    """What could run again of these documents: for each processor the newest item, if that is one that failed."""
    terminal = [status.value for status in TERMINAL]
    rows = await connection.fetch(_FAILED, tenant_id, collection, list(file_ids), list(processors), terminal)
    return [Failed(*row) for row in rows]


async def names(
    connection: Transaction, tenant_id: UUID, collection: str, file_ids: Sequence[str], processor: str
) -> dict[str, str | None]:
    """Those of these documents that the processor has, or had, to do with in this collection, and what they are called."""
    rows = await connection.fetch(
        f"SELECT DISTINCT ON (i.custom_id) i.custom_id, i.name {_DOCUMENTS} AND b.processor = $4"
        " ORDER BY i.custom_id, b.id DESC",
        tenant_id,
        collection,
        list(file_ids),
        processor,
    )
    return {row["custom_id"]: row["name"] for row in rows}


# By ordinal and not by a join alone: items and results are partitioned, and the keys find them.
_FORGET = f"""
UPDATE result r SET output = NULL, content = NULL FROM (
    SELECT i.batch_id, i.ordinal {_DOCUMENTS} AND b.processor = $4 ORDER BY i.batch_id, i.ordinal
) found
WHERE r.batch_id = found.batch_id AND r.ordinal = found.ordinal AND r.status = {ResultStatus.SUCCESS:d}
    AND r.output IS NOT NULL
"""


async def forget_outputs(
    tx: Transaction, tenant_id: UUID, collection: str, file_id: str, processor: str
) -> int:
    """What the processor has stored of a document in this collection is gone; its items stay, as successes without an
    output. Answers with how many those were."""
    done = await tx.execute(_FORGET, tenant_id, collection, [file_id], processor)
    return int(done.split()[-1])
