"""Chunks on their way to a sink that misbehaves: each arrives, with one id, and nothing is processed twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import orjson
import pytest

from factories import get, make_batch, sql, violations
from fakes.receiver import Received, Receiver, hang, hold, reset, status
from gristmill.db import Database
from gristmill.documents.pool import default_children
from gristmill.domain.retry import RetryPolicy
from gristmill.domain.states import ItemStatus
from gristmill.processors.base import Context
from gristmill.processors.pipeline import Pipeline, PipelineConfig, PipelineInput
from gristmill.store import results
from gristmill.store.new_batches import NewItem
from gristmill.store.results import Attempt, Result
from gristmill.worker import ITEMS_PER_CHILD
from mill import Scripted, ended, eventually, working

TEXT = "\n\n".join(f"Paragraph number {n} is about something." for n in range(7))  # a chunk each


class Hasty(Pipeline):
    """As it is, with less patience."""

    retry = RetryPolicy(base_seconds=0.01, max_seconds=0.02)


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


def config(sink: Receiver, **more: Any) -> str:
    given = {"url": sink.url, "chunks_per_post": 2, "timeout_seconds": 5.0} | more.pop("sending", {})
    return orjson.dumps({"sink": given, "max_characters": 45, "new_after": 1} | more).decode()


async def make(database: Database, sink: Receiver, *texts: str, **more: Any) -> UUID:
    items = [NewItem(f"item-{n}", orjson.dumps({"text": text}).decode()) for n, text in enumerate(texts)]
    options = {name: more.pop(name) for name in ("max_attempts", "item_timeout_seconds") if name in more}
    return await make_batch(database, items, processor="pipeline", config=config(sink, **more), **options)


async def item(database: Database, batch_id: UUID, n: int = 0) -> tuple[Result, list[Attempt]]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        result, _, attempts = await results.one(connection, batch, f"item-{n}")
        [result] = await results.with_checkpoints(connection, batch, [result])
    return result, attempts


def stage(result: Result) -> str:
    return Pipeline().stage(result.status, result.checkpoint.stage if result.checkpoint else None)


def indices(received: Sequence[Received]) -> list[list[int]]:
    return [[chunk["index"] for chunk in orjson.loads(one.body)["chunks"]] for one in received]


async def test_the_sink_gets_all_chunks_in_order_a_few_at_a_time(database: Database, sink: Receiver) -> None:
    batch_id = await make(database, sink, TEXT)
    async with working(database, Hasty()):
        await ended(database, batch_id)

    assert indices(sink.received) == [[0, 1], [2, 3], [4, 5], [6]]
    [first, *_] = [orjson.loads(one.body) for one in sink.received]
    assert (first["type"], first["batch_id"], first["custom_id"]) == ("chunks", str(batch_id), "item-0")
    assert first["chunks"][0] == {
        "id": f"{batch_id}-0-0",
        "content": "Paragraph number 0 is about something.",
        "filename": "item-0",
        "metadata": {},
        "language": None,
        "index": 0,
        "total": 7,
    }
    assert [one.headers["idempotency-key"] for one in sink.received] == [
        f"{batch_id}-0:{span}" for span in ("0-1", "2-3", "4-5", "6-6")
    ]
    result, _ = await item(database, batch_id)
    output = orjson.loads(result.output or "")
    assert 0 <= output.pop("processing_seconds") < 60
    assert 0 <= output.pop("forwarding_seconds") < 60
    assert output == {
        "chunks": 7,
        "characters": 7 * 38,
        "language": None,
        "filename": "item-0",
        "posts": 4,
    }
    assert stage(result) == "COMPLETED"
    assert result.checkpoint is not None
    assert (result.checkpoint.done, result.checkpoint.total) == (7, 7)
    assert await sql(database, "SELECT data FROM item_checkpoint") == [None]
    assert await violations(database) == []


async def test_filename_language_and_metadata_go_along_with_every_chunk(
    database: Database, sink: Receiver
) -> None:
    given = {"text": TEXT, "filename": "a.md", "language": "en", "metadata": {"author": "Ada"}}
    items = [NewItem("item-0", orjson.dumps(given).decode())]
    batch_id = await make_batch(database, items, processor="pipeline", config=config(sink))
    async with working(database, Hasty()):
        await ended(database, batch_id)
    chunks = [chunk for one in sink.received for chunk in orjson.loads(one.body)["chunks"]]
    assert len(chunks) == 7
    for chunk in chunks:
        assert (chunk["filename"], chunk["language"], chunk["metadata"]) == ("a.md", "en", {"author": "Ada"})


class Counting(Hasty):
    """Counts how often something is processed."""

    def __init__(self) -> None:
        self.processed = 0

    async def _process(self, given: PipelineInput, context: Context[PipelineConfig]) -> Any:
        self.processed += 1
        return await super()._process(given, context)


async def test_forwarding_is_retried_from_where_it_stood_without_processing_again(
    database: Database, sink: Receiver
) -> None:
    sink.behave(status(200), status(500), reset(), status(200), status(503), status(200))
    batch_id = await make(database, sink, TEXT, max_attempts=10)
    async with working(database, counting := Counting()):
        await ended(database, batch_id)

    assert counting.processed == 1
    assert indices(sink.received) == [[0, 1], [2, 3], [2, 3], [2, 3], [4, 5], [4, 5], [6]]
    again = [one for one in sink.received if indices([one]) == [[2, 3]]]
    assert len({one.body for one in again}) == 1
    assert len({(one.headers["idempotency-key"], one.headers["webhook-id"]) for one in again}) == 1
    result, attempts = await item(database, batch_id)
    assert (result.status, result.attempt) == (ItemStatus.SUCCESS, 4)
    assert [orjson.loads(one.error)["type"] for one in attempts] == [
        "sink_error",
        "sink_connection_lost",
        "sink_error",
    ]
    assert await violations(database) == []


async def test_a_busy_sink_is_waited_for_without_an_attempt(database: Database, sink: Receiver) -> None:
    sink.behave(*[status(429, Retry_After=1)] * 2, status(200))
    batch_id = await make(database, sink, TEXT, max_attempts=1)
    async with working(database, counting := Counting()):
        await sink.until(1)

        async def waits() -> bool:
            return stage((await item(database, batch_id))[0]) == "WAIT_FOR_FORWARDING"

        await eventually(waits)
        await ended(database, batch_id)
    result, attempts = await item(database, batch_id)
    assert (result.status, result.attempt, attempts) == (ItemStatus.SUCCESS, 1, [])
    assert counting.processed == 1
    first, second, third, *_ = sink.received
    assert second.at - first.at >= 1
    assert third.at - second.at >= 1


@pytest.mark.parametrize("code", [301, 400, 401, 404, 413, 422])
async def test_what_a_sink_refuses_is_not_sent_again(database: Database, sink: Receiver, code: int) -> None:
    sink.behave(status(200), status(code, b'{"message": "wrong dimension"}'))
    batch_id = await make(database, sink, TEXT, max_attempts=5)
    async with working(database, Hasty()):
        await ended(database, batch_id)
    assert len(sink.received) == 2
    result, _ = await item(database, batch_id)
    error = orjson.loads(result.error or "")
    assert (error["type"], error["upstream_status"], error["retryable"]) == ("sink_refused", code, False)
    assert error["suggestion"]
    assert stage(result) == "FORWARD_FAILED"
    assert result.checkpoint is not None
    assert (result.checkpoint.done, result.checkpoint.total) == (2, 7)


async def test_what_failed_for_good_can_be_forwarded_later_from_where_it_stood(
    database: Database, sink: Receiver
) -> None:
    """What a retry of an ended batch relies on: a failure keeps its chunks."""
    sink.behave(status(200), status(400))
    batch_id = await make(database, sink, TEXT)
    async with working(database, Hasty()):
        await ended(database, batch_id)
    [data] = await sql(database, "SELECT data FROM item_checkpoint WHERE data IS NOT NULL")
    assert "Paragraph number 6" in data


@pytest.mark.parametrize("text", ["", " \n\t\n ", "\u3000"])
async def test_a_text_without_any_text_has_no_valid_chunks(
    database: Database, sink: Receiver, text: str
) -> None:
    batch_id = await make(database, sink, text, TEXT)
    async with working(database, Hasty()):
        await ended(database, batch_id)
    failed, _ = await item(database, batch_id)
    error = orjson.loads(failed.error or "")
    assert (failed.code, error["type"], stage(failed)) == (400, "no_valid_chunks", "PROCESS_FAILED")
    assert error["suggestion"]
    assert failed.checkpoint is None
    assert (await item(database, batch_id, 1))[0].status is ItemStatus.SUCCESS  # disturbed by nothing


async def test_an_item_that_runs_out_of_time_while_forwarding_goes_on_where_it_stood(
    database: Database, sink: Receiver
) -> None:
    sink.behave(status(200), hang(), status(200))
    batch_id = await make(database, sink, TEXT, item_timeout_seconds=3.0, sending={"timeout_seconds": 60.0})
    async with working(database, counting := Counting()):
        await ended(database, batch_id)
    assert counting.processed == 1
    assert indices(sink.received) == [[0, 1], [2, 3], [2, 3], [4, 5], [6]]


async def test_stage_and_progress_are_seen_while_it_runs(database: Database, sink: Receiver) -> None:
    gate = asyncio.Event()
    sink.behave(status(200), hold(gate))
    batch_id = await make(database, sink, TEXT)
    waiting, _ = await item(database, batch_id)
    assert (stage(waiting), waiting.checkpoint) == ("WAIT_FOR_PROCESSING", None)
    async with working(database, Hasty()):
        await sink.until(2)
        running, _ = await item(database, batch_id)
        gate.set()
        await ended(database, batch_id)
    assert (running.status, stage(running)) == (ItemStatus.PROCESSING, "FORWARDING")
    assert running.checkpoint is not None
    assert (running.checkpoint.done, running.checkpoint.total) == (2, 7)


async def test_a_worker_that_lost_the_item_sends_nothing_more(database: Database, sink: Receiver) -> None:
    gate = asyncio.Event()
    sink.behave(hold(gate))
    batch_id = await make(database, sink, TEXT)
    async with working(database, Hasty()):
        await sink.until(1)
        # Another worker has taken the item, and stands further on.
        await sql(database, "UPDATE lease SET id = id + 1000 WHERE batch_id = $1", batch_id)
        await sql(database, "UPDATE item_checkpoint SET done = 6")
        gate.set()
    assert indices(sink.received) == [[0, 1]]
    assert await sql(database, "SELECT done FROM item_checkpoint") == [6]
    assert await sql(database, "SELECT count(*) FROM result") == [0]


class Hoarding(Hasty):
    """Keeps more than may be kept."""

    async def _process(self, given: PipelineInput, context: Context[PipelineConfig]) -> Any:
        await context.save("hoarding", "ä" * (4 * 1024 * 1024) + "b")
        raise AssertionError


async def test_a_checkpoint_beyond_the_bound_fails_the_item_clearly(
    database: Database, sink: Receiver
) -> None:
    batch_id = await make(database, sink, TEXT)
    async with working(database, Hoarding()):
        await ended(database, batch_id)
    result, attempts = await item(database, batch_id)
    assert (result.code, attempts) == (500, [])
    error = orjson.loads(result.error or "")
    assert (error["type"], "8388608 bytes" in error["message"]) == ("checkpoint_too_large", True)
    assert await sql(database, "SELECT count(*) FROM item_checkpoint") == [0]


class Undeclared(Hasty):
    uses_checkpoints = False


async def test_saving_without_having_said_so_is_a_bug_of_the_processor(
    database: Database, sink: Receiver
) -> None:
    batch_id = await make(database, sink, TEXT)
    async with working(database, Undeclared()):
        await ended(database, batch_id)
    result, _ = await item(database, batch_id)
    assert orjson.loads(result.error or "")["type"] == "processor_error"
    assert sink.received == []


async def test_an_item_goes_on_when_its_connection_broke_while_it_saved(
    database: Database, sink: Receiver
) -> None:
    """Nothing is wrong with the item: it uses up no attempt, and goes on where it last stood."""

    async def cut(received: Received, writer: asyncio.StreamWriter) -> None:
        own = await database.connect()
        async with own.transaction():
            await own.execute("LOCK TABLE item_checkpoint IN ACCESS EXCLUSIVE MODE")
            await status(200)(received, writer)
            await writer.drain()
            while not await own.fetchval(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)
        await own.close()

    sink.behave(status(200), cut, status(200))
    batch_id = await make(database, sink, TEXT, max_attempts=1)
    async with working(database, Hasty()):
        await ended(database, batch_id)
    result, attempts = await item(database, batch_id)
    assert (result.status, result.attempt, attempts) == (ItemStatus.SUCCESS, 1, [])
    assert indices(sink.received) == [[0, 1], [2, 3], [2, 3], [4, 5], [6]]
    assert await violations(database) == []


class Reading(Scripted):
    """Bounded as what reads documents is."""

    uses_parser = True


async def test_items_that_read_documents_are_few_at_a_time(database: Database) -> None:
    reading = Reading()
    most = ITEMS_PER_CHILD * default_children()
    items = [NewItem(f"item-{n}", '{"do": "gate"}') for n in range(most + 5)]
    batch_id = await make_batch(database, items)
    async with working(database, reading, concurrency=most + 100):

        async def full() -> bool:
            return reading.at_gate >= most

        await eventually(full)
        running = (await get(database, batch_id)).processing
        reading.gate.set()
        await ended(database, batch_id)
    assert running == most
