"""What is known of a collection's documents across its batches, and what is forgotten of them."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from factories import TENANT, make_batch, sql
from gristmill.db import Database
from gristmill.store import collections
from gristmill.store.new_batches import NewItem, NewUpstream

DOCS = ["doc-0", "doc-1", "doc-2"]


async def ended(database: Database, *outcomes: str, processor: str = "table_extraction", **more: Any) -> UUID:
    """A batch of these documents that has ended: `s` with an output, `f` failed, `r` refused at once."""
    items = [
        NewItem(doc, "{}", name=f"{doc}.pdf", error='{"type":"a","message":"b"}' if outcome == "r" else None)
        for doc, outcome in zip(DOCS, outcomes, strict=False)
    ]
    batch_id = await make_batch(
        database, items, processor=processor, **{"collection": "shelf", "config": '{"a":1}'} | more
    )
    await sql(
        database,
        "INSERT INTO result (batch_id, ordinal, status, code, attempt, output)"
        " SELECT batch_id, ordinal, CASE WHEN $2::text[] @> ARRAY[custom_id] THEN 2 ELSE 1 END,"
        " CASE WHEN $2::text[] @> ARRAY[custom_id] THEN 500 END, 1,"
        " CASE WHEN NOT $2::text[] @> ARRAY[custom_id] THEN '{}' END FROM item WHERE batch_id = $1 ON CONFLICT DO NOTHING",
        batch_id,
        [doc for doc, outcome in zip(DOCS, outcomes, strict=False) if outcome == "f"],
    )
    await sql(
        database,
        "UPDATE batch SET status = 'completed', completed_at = now(), expires_at = now() WHERE id = $1",
        batch_id,
    )
    return batch_id


async def failed(
    database: Database, processors: tuple[str, ...] = ("table_extraction",)
) -> list[tuple[UUID, str]]:
    async with database.connection() as connection:
        found = await collections.failed(connection, TENANT, "shelf", DOCS, processors)
    return [(one.batch_id, one.custom_id) for one in found]


async def test_what_failed_last_is_found_and_what_has_succeeded_since_is_not(database: Database) -> None:
    first = await ended(database, "f", "f", "s")
    assert await failed(database) == [(first, "doc-0"), (first, "doc-1")]
    second = await ended(database, "s", "f", "f")
    assert await failed(database) == [(second, "doc-1"), (second, "doc-2")]
    assert await failed(database, ("qa_generation",)) == []


async def test_each_processor_has_a_last_time_of_its_own(database: Database) -> None:
    tables = await ended(database, "f")
    questions = await ended(database, "f", processor="qa_generation")
    assert await failed(database, ("table_extraction", "qa_generation")) == [
        (tables, "doc-0"),
        (questions, "doc-0"),
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"collection": "other"},
        {"tenant_id": uuid4()},
        {"upstream": NewUpstream("m", b"x")},
        {"config_secrets": b"x"},
    ],
)
async def test_what_is_not_ours_or_not_to_be_repeated_is_left_alone(
    database: Database, more: dict[str, Any]
) -> None:
    await ended(database, "f", **more)
    assert await failed(database) == []


async def test_refused_items_and_running_batches_are_left_alone(database: Database) -> None:
    await ended(database, "r", "s")
    running = await ended(database, "s", "f")
    await sql(
        database,
        "UPDATE batch SET status = 'in_progress', completed_at = NULL, expires_at = NULL WHERE id = $1",
        running,
    )
    assert await failed(database) == []


async def test_outputs_of_one_document_are_forgotten_in_every_batch_of_the_collection(
    database: Database,
) -> None:
    ours = [await ended(database, "s", "s"), await ended(database, "s", "f")]
    others = [
        await ended(database, "s", collection="other"),
        await ended(database, "s", tenant_id=uuid4()),
        await ended(database, "s", processor="qa_generation"),
    ]
    async with database.transaction() as tx:
        assert await collections.forget_outputs(tx, TENANT, "shelf", "doc-0", "table_extraction") == 2
    async with database.transaction() as tx:
        assert await collections.forget_outputs(tx, TENANT, "shelf", "doc-0", "table_extraction") == 0
    outputs = "SELECT batch_id FROM result WHERE status = 1 AND output IS NOT NULL AND ordinal = 0"
    assert set(await sql(database, outputs)) == set(others)
    kept = "SELECT output FROM result WHERE batch_id = $1 AND ordinal = 1"
    assert await sql(database, kept, ours[0]) == ["{}"]


async def test_names_are_those_of_the_newest_item(database: Database) -> None:
    await ended(database, "s", "f")
    async with database.connection() as connection:
        found = await collections.names(connection, TENANT, "shelf", DOCS, "table_extraction")
        assert found == {"doc-0": "doc-0.pdf", "doc-1": "doc-1.pdf"}
        assert await collections.names(connection, uuid4(), "shelf", DOCS, "table_extraction") == {}
