"""Where a batch comes from: the dialect that it was made through, and what only that one knows of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from asyncpg import UniqueViolationError

from gristmill.db import Transaction
from gristmill.domain.errors import Conflict, NotFound
from gristmill.store.batches import COLUMNS, SOURCE, Batch, batch_of

KEY_TAKEN = "key_taken"


@dataclass(frozen=True, slots=True)
class Origin:
    """The dialect that a batch was made through. `key`: the caller's own id for it, one of a kind per tenant and dialect;
    `facts`: JSON text that only the dialect reads."""

    dialect: str
    key: str | None = None
    facts: str | None = None


async def lay_down(tx: Transaction, batch_id: UUID, origin: Origin) -> None:
    """Of a new batch. Raises Conflict with the code KEY_TAKEN where another batch of the dialect has its key."""
    statement = "UPDATE batch SET dialect = $2, dialect_key = $3, dialect_facts = $4 WHERE id = $1"
    try:
        await tx.execute(statement, batch_id, origin.dialect, origin.key, origin.facts)
    except UniqueViolationError:
        raise Conflict("another batch has this id", code=KEY_TAKEN) from None


async def note_facts(tx: Transaction, tenant_id: UUID, batch_id: UUID, facts: Mapping[str, Any]) -> None:
    """Add these to what its dialect keeps of a batch; what has a name of theirs is replaced."""
    merged = """
        UPDATE batch SET dialect_facts = (coalesce(dialect_facts, '{}')::jsonb || $3::jsonb)::text
        WHERE id = $1 AND tenant_id = $2
    """
    await tx.execute(merged, batch_id, tenant_id, orjson.dumps(dict(facts)).decode())


async def with_key(connection: Transaction, tenant_id: UUID, dialect: str, key: str) -> Batch:
    """The batch that was made through this dialect with this id of the caller's own. Raises NotFound."""
    condition = "b.tenant_id = $1 AND b.dialect = $2 AND b.dialect_key = $3"
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM {SOURCE} WHERE {condition}", tenant_id, dialect, key
    )
    if row is None:
        raise NotFound("no such batch")
    return batch_of(row)
