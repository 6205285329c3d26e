"""Batches from files and directories: ingested whole or not at all, whoever dies, pauses or cancels meanwhile."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

import factories
from factories import TENANT, get, new_batch
from gristmill.db import Database
from gristmill.domain.errors import Conflict
from gristmill.domain.states import BatchStatus
from gristmill.intake import source
from gristmill.intake.rows import Row
from gristmill.intake.source import FileOptions
from gristmill.net.session import HttpSession
from gristmill.processors.base import Services
from gristmill.storage.base import file_key
from gristmill.storage.local import LocalStorage
from gristmill.storage.sources import Sources
from gristmill.store import files, ingests, new_batches, transitions
from gristmill.store.new_batches import NewItem, NewWebhook
from gristmill.worker.discards import Discards
from gristmill.worker.ingests import MOST_ATTEMPTS, Ingests
from mill import VAULT, Scripted, _no_attachment, _no_turns


class Mill:
    """Ingests by hand, with uploaded files under `root`."""

    def __init__(self, database: Database, root: Path, http: HttpSession) -> None:
        self.database = database
        self.storage = LocalStorage(root)
        self.ready = 0
        sources = Sources(self.storage, http, self._filename, max_bytes=10**9)
        self.services = Services(None, http, _no_turns, _no_attachment, VAULT.decrypt, sources.open)
        self.ingests = self.another()

    def another(self, lease_seconds: float = 30.0) -> Ingests:
        return Ingests(
            self.database,
            self.services,
            {"noop": Scripted()},
            lease_seconds=lease_seconds,
            allow_private=False,
            done=self._done,
        )

    def _done(self) -> None:
        self.ready += 1

    async def _filename(self, tenant_id: UUID, file_id: UUID) -> str:
        return "a file"

    async def file(self, content: bytes) -> UUID:
        async def pieces() -> AsyncIterator[bytes]:
            yield content

        file_id = uuid4()
        await self.storage.put(file_key(TENANT, file_id), pieces())
        return file_id

    async def batch(
        self, content: bytes | None, total: int, options: FileOptions | None = None, **more: Any
    ) -> UUID:
        """content None: the file is gone."""
        new = new_batch(**more)
        file_id = uuid4() if content is None else await self.file(content)
        given = (options or FileOptions(format="jsonl")).model_dump_json()
        async with self.database.transaction() as tx:
            await ingests.create(tx, new, total, file_id, given)
        return new.id


@pytest.fixture
async def mill(database: Database, tmp_path: Path) -> AsyncIterator[Mill]:
    async with HttpSession(allow_private=False) as http:
        yield Mill(database, tmp_path, http)


def lines(count: int) -> bytes:
    return b"".join(b'{"custom_id": "c-%d", "input": {"text": "%d"}}\n' % (n, n) for n in range(count))


async def count(database: Database, table: str, batch_id: UUID) -> int:
    async with database.connection() as connection:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE batch_id = $1", batch_id)
        return found


async def error(database: Database, batch_id: UUID) -> str:
    return (await get(database, batch_id)).error or ""


async def test_nothing_of_a_batch_can_start_before_its_file_is_ingested_and_then_all_of_it(
    mill: Mill, database: Database
) -> None:
    batch_id = await mill.batch(lines(1203), 1203)
    worker = await factories.make_worker(database)
    waiting = await get(database, batch_id)
    assert (waiting.status, waiting.total, waiting.pending) == (BatchStatus.IN_PROGRESS, 1203, 1203)
    assert waiting.waiting_reason == "ingesting"
    assert await factories.claim(database, worker, 10) == []
    assert await factories.violations(database) == []

    assert await mill.ingests.step() == 1
    assert mill.ready == 1
    assert await factories.violations(database) == []
    [lease] = await factories.claim(database, worker, 2000)
    assert [item.custom_id for item in lease.items] == [f"c-{n}" for n in range(1203)]
    assert lease.items[7].input == '{"text":"7"}'
    assert await mill.ingests.step() == 0


async def test_custom_ids_and_inputs_of_any_text_are_kept_as_they_are(mill: Mill, database: Database) -> None:
    texts = ["\\N", "\\.", "a\tb\nc\rd", "\\", "\\\\t", "\x01\x7f\u2028", "é 日本 🙂"]
    content = b"\n".join(orjson.dumps({"custom_id": text, "input": {"text": text}}) for text in texts)
    await mill.batch(content, len(texts))
    assert await mill.ingests.step() == 1

    [lease] = await factories.claim(database, await factories.make_worker(database), 100)
    kept = [(item.custom_id, orjson.loads(item.input)["text"]) for item in lease.items]
    assert kept == [(text, text) for text in texts]


async def test_a_csv_file_becomes_a_batch(mill: Mill, database: Database) -> None:
    options = FileOptions(format="csv", column_mapping={"Name": "text", "Rest": None})
    text = "Rest;Name;custom_id\nx;Mühle;one\n;Stein;\n"
    batch_id = await mill.batch(text.encode("cp1252"), 2, options)
    await mill.ingests.step()
    [lease] = await factories.claim(database, await factories.make_worker(database), 10)
    assert [(one.custom_id, one.input) for one in lease.items] == [
        ("one", '{"text":"Mühle"}'),
        ("row-2", '{"text":"Stein"}'),
    ]
    assert (await get(database, batch_id)).waiting_reason is None


async def test_a_bad_file_ends_its_batch_as_failed_with_its_lines_and_nothing_is_stored(
    mill: Mill, database: Database
) -> None:
    text = (
        lines(700)
        + b'{"custom_id": "", "input": {}}\nnonsense\n{"custom_id": "x", "input": {"do": "dance"}}\n'
    )
    webhook = NewWebhook("https://example.com/", ("failed",))
    batch_id = await mill.batch(text, 703, webhook=webhook)
    await mill.ingests.step()
    ended = await get(database, batch_id)
    assert (ended.status, ended.total, ended.failed, ended.pending) == (BatchStatus.FAILED, 703, 703, 0)
    for place in ("/lines/701/custom_id", "/lines/702", "/lines/703/input/do"):
        assert f'"{place}"' in (ended.error or "")
    assert await count(database, "item", batch_id) == 0
    assert await count(database, "delivery", batch_id) == 1
    assert await factories.violations(database) == []


async def test_at_most_a_hundred_faults_are_told(mill: Mill, database: Database) -> None:
    batch_id = await mill.batch(b"{}\n" * 5000, 5000)
    await mill.ingests.step()
    assert (await error(database, batch_id)).count('"pointer"') == 100


async def test_a_custom_id_that_comes_again_far_away_is_found_with_both_its_lines(
    mill: Mill, database: Database
) -> None:
    batch_id = await mill.batch(lines(1500) + lines(3), 1503)
    await mill.ingests.step()
    said = await error(database, batch_id)
    assert said.count("duplicate_custom_id") == 3
    assert '"/lines/1502/custom_id"' in said
    assert "the same as in line 2" in said
    assert await count(database, "item", batch_id) == 0


async def test_a_file_with_other_than_the_counted_lines_is_refused(mill: Mill, database: Database) -> None:
    batch_id = await mill.batch(lines(3), 4)
    await mill.ingests.step()
    assert "wrong_count" in await error(database, batch_id)


async def test_a_file_that_is_gone_fails_the_batch(mill: Mill, database: Database) -> None:
    batch_id = await mill.batch(None, 4)
    await mill.ingests.step()
    assert (await get(database, batch_id)).status is BatchStatus.FAILED
    assert "file_not_found" in await error(database, batch_id)


async def test_a_storage_that_is_away_is_tried_again_and_not_for_ever(
    mill: Mill, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gristmill.storage import local

    batch_id = await mill.batch(lines(3), 3)

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(local, "_link", fails)
    for _ in range(MOST_ATTEMPTS - 1):
        assert await mill.ingests.step() == 1
        assert (await get(database, batch_id)).waiting_reason == "ingesting"
        assert await mill.ingests.step() == 0  # not before its time
        await _due(database)
    await mill.ingests.step()
    assert "storage_unavailable" in await error(database, batch_id)


async def _due(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("UPDATE ingest SET leased_until = now() - interval '1 second'")


# --- what happens meanwhile -------------------------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> "Held":
    """Ingests stop after the first chunk was stored, until they are let go."""
    found = Held()
    original = new_batches.add_items

    async def add_items(*arguments: Any) -> None:
        await original(*arguments)
        found.reached.set()
        await found.go.wait()

    monkeypatch.setattr(new_batches, "add_items", add_items)
    return found


class Held:
    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()


async def test_what_is_being_ingested_cannot_be_seen(mill: Mill, database: Database, held: Held) -> None:
    batch_id = await mill.batch(lines(600), 600)
    step = asyncio.create_task(mill.ingests.step())
    await held.reached.wait()
    assert await count(database, "item", batch_id) == 0
    assert await mill.another().step() == 0  # it has an owner
    held.go.set()
    await step
    assert await count(database, "item", batch_id) == 600


async def test_the_next_records_are_read_while_others_are_being_stored(
    mill: Mill, database: Database, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, taken, reads = asyncio.get_running_loop(), asyncio.Event(), 0

    def take(*arguments: Any) -> list[Row]:
        nonlocal reads
        reads += 1
        if reads == 2:
            loop.call_soon_threadsafe(taken.set)
        return source.take(*arguments)

    monkeypatch.setattr("gristmill.intake.ingest.take", take)
    batch_id = await mill.batch(lines(2600), 2600)
    step = asyncio.create_task(mill.ingests.step())
    await held.reached.wait()
    async with asyncio.timeout(60):
        await taken.wait()
    held.go.set()
    await step
    assert await count(database, "item", batch_id) == 2600


async def test_a_process_that_ends_in_the_middle_leaves_nothing_and_the_next_one_begins_anew(
    mill: Mill, database: Database, held: Held
) -> None:
    batch_id = await mill.batch(lines(600), 600)
    step = asyncio.create_task(mill.ingests.step())
    await held.reached.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert await count(database, "item", batch_id) == 0
    held.go.set()
    assert await mill.another().step() == 1
    assert await count(database, "item", batch_id) == 600
    assert await factories.violations(database) == []


async def test_of_two_processes_that_ingest_one_file_only_the_later_counts(
    mill: Mill, database: Database, held: Held
) -> None:
    """The first was thought dead: its lease ran out."""
    batch_id = await mill.batch(lines(600), 600)
    first = asyncio.create_task(mill.ingests.step())
    await held.reached.wait()
    await _due(database)
    held.reached.clear()
    second = asyncio.create_task(mill.another().step())
    await factories.blocked(database, second)
    held.go.set()
    assert [await first, await second] == [1, 1]
    assert await count(database, "item", batch_id) == 600
    assert (await get(database, batch_id)).waiting_reason != "ingesting"
    assert await factories.violations(database) == []


@pytest.mark.parametrize("act", ["pause", "cancel", "pause and resume"])
async def test_what_is_done_to_a_batch_while_it_is_ingested_holds(
    mill: Mill, database: Database, held: Held, act: str
) -> None:
    batch_id = await mill.batch(lines(600), 600)
    step = asyncio.create_task(mill.ingests.step())
    await held.reached.wait()
    for one in act.split(" and "):
        async with database.transaction() as tx:
            await getattr(transitions, one)(tx, TENANT, batch_id)
    held.go.set()
    await step
    assert await factories.violations(database) == []
    worker = await factories.make_worker(database)
    found = await factories.claim(database, worker, 10)
    assert bool(found) == (act == "pause and resume")
    if act == "pause":
        assert (await get(database, batch_id)).waiting_reason == "paused"
    if act == "cancel":
        await factories.sweep(database)
        ended = await get(database, batch_id)
        assert (ended.status, ended.cancelled) == (BatchStatus.CANCELLED, 600)
    assert await factories.violations(database) == []


async def test_a_cancelled_batch_whose_file_is_bad_ends_cancelled(mill: Mill, database: Database) -> None:
    batch_id = await mill.batch(b"{}\n", 1)
    async with database.transaction() as tx:
        await transitions.cancel(tx, TENANT, batch_id)
    await mill.ingests.step()
    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED
    assert await factories.violations(database) == []


async def test_a_resume_that_meets_the_end_of_an_ingest_lets_the_batch_start(
    mill: Mill, database: Database
) -> None:
    """The ingest is held where it has the batch's row and has not yet made its schedule."""
    await factories.make_batch(database, 1, start_paused=True)
    batch_id = await mill.batch(lines(2), 2)
    await factories.turn(database, transitions.pause, batch_id)
    holder = await database.connect()
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM tenant_schedule FOR UPDATE")
            reading = asyncio.create_task(mill.ingests.step())
            await _wait_for_locks(database, 1)
            resuming = asyncio.create_task(factories.turn(database, transitions.resume, batch_id))
            await _wait_for_locks(database, 2)
        await asyncio.gather(reading, resuming)
    finally:
        await holder.close()
    assert await factories.violations(database) == []
    assert len(await factories.claim(database, await factories.make_worker(database), 9)) == 1


async def _wait_for_locks(database: Database, count: int) -> None:
    waiting = """
        SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND datname = current_database()
    """
    async with asyncio.timeout(30):
        while await factories.sql(database, waiting) != [count]:
            await asyncio.sleep(0.01)


async def test_pauses_and_cancels_at_any_moment_leave_a_batch_that_ends(
    mill: Mill, database: Database
) -> None:
    """The moment is chance."""
    seeded = random.Random(11)
    ids = [await mill.batch(lines(2), 2) for _ in range(60)]

    async def disturb(batch_id: UUID) -> None:
        acts: list[Callable[..., Any]] = seeded.choice(
            [
                [transitions.cancel],
                [transitions.pause, transitions.resume],
                [transitions.pause, transitions.cancel],
            ]
        )
        for act in acts:
            for _ in range(seeded.randrange(40)):
                await asyncio.sleep(0)
            async with database.transaction() as tx:
                await act(tx, TENANT, batch_id)

    async def ingest() -> None:
        while await mill.another().step():
            pass

    await asyncio.gather(ingest(), ingest(), *(disturb(one) for one in ids))
    assert await factories.violations(database) == []
    worker = await factories.make_worker(database)
    while leases := await factories.claim(database, worker, 100):
        for lease in leases:
            ended = [factories.success(lease, item.ordinal) for item in lease.items]
            await factories.record(database, worker, factories.Flush({lease.id: 0}, ended), alone=True)
    await factories.sweep(database)
    for one in ids:
        assert (await get(database, one)).status in {BatchStatus.COMPLETED, BatchStatus.CANCELLED}
    assert await factories.violations(database) == []


async def test_a_large_file_is_ingested_in_bounded_memory(mill: Mill, database: Database) -> None:
    import tracemalloc

    batch_id = await mill.batch(lines(50_000), 50_000)
    tracemalloc.start()
    await mill.ingests.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert await count(database, "item", batch_id) == 50_000
    assert peak < 8_000_000


@pytest.mark.parametrize("act", ["pause", "cancel"])
async def test_an_action_in_the_moment_an_ingest_ends_waits_for_it(
    mill: Mill, database: Database, act: str
) -> None:
    batch_id = await mill.batch(lines(1), 1)
    async with database.connection() as connection:
        ingest = await ingests.claim(connection, 30.0, ["noop"])
    assert ingest is not None

    async def action() -> None:
        async with database.transaction() as tx:
            await getattr(transitions, act)(tx, TENANT, batch_id)

    async with database.transaction() as tx:
        await new_batches.add_items(tx, batch_id, 0, [NewItem("a", "{}")])
        assert await ingests.complete(tx, ingest)
        acting = asyncio.create_task(action())
        await factories.blocked(database, acting)
        assert not acting.done()
    await acting
    assert await factories.violations(database) == []
    assert await factories.claim(database, await factories.make_worker(database), 10) == []


async def test_who_lost_an_ingest_can_neither_end_nor_refuse_it(mill: Mill, database: Database) -> None:
    batch_id = await mill.batch(lines(1), 1)
    async with database.connection() as connection:
        first = await ingests.claim(connection, 0.0, ["noop"])
        second = await ingests.claim(connection, 30.0, ["noop"])
        assert await ingests.claim(connection, 30.0, ["noop"]) is None
    assert first is not None
    assert second is not None
    async with database.transaction() as tx:
        assert not await ingests.extend(tx, first, 30.0)
        assert not await ingests.complete(tx, first)
        assert not await ingests.refuse(tx, first, [])
        assert await ingests.extend(tx, second, 30.0)
    assert (await get(database, batch_id)).waiting_reason == "ingesting"


async def test_bad_records_fail_by_themselves_where_the_caller_wants_that(
    mill: Mill, database: Database
) -> None:
    text = (
        lines(600)
        + b'nonsense\n{"custom_id": "x", "input": {"do": "dance"}}\n'
        + lines(601)[len(lines(600)) :]
    )
    batch_id = await mill.batch(text, 603, FileOptions(format="jsonl", fail_items=True))
    await mill.ingests.step()
    found = await get(database, batch_id)
    assert (found.status, found.failed, found.pending) == (BatchStatus.IN_PROGRESS, 2, 601)
    assert await factories.violations(database) == []
    rows = await factories.sql(
        database,
        """
        SELECT i.custom_id, i.ordinal, r.code::int, r.attempt::int FROM result r
        JOIN item i ON i.batch_id = r.batch_id AND i.ordinal = r.ordinal WHERE r.batch_id = $1 ORDER BY 2
        """,
        batch_id,
    )
    assert rows == [("line-601", 600, 400, 0), ("x", 601, 400, 0)]
    [first, second] = await factories.claim(database, await factories.make_worker(database), 1000)
    assert [len(first.items), len(second.items)] == [600, 1]


async def test_a_file_of_bad_records_only_ends_its_batch_at_once(mill: Mill, database: Database) -> None:
    webhook = NewWebhook("https://example.com/", ("completed",))
    options = FileOptions(format="jsonl", fail_items=True)
    batch_id = await mill.batch(b"nonsense\n[]\n", 2, options, webhook=webhook)
    await mill.ingests.step()
    found = await get(database, batch_id)
    assert (found.status, found.failed) == (BatchStatus.COMPLETED, 2)
    assert await count(database, "delivery", batch_id) == 1
    assert await factories.violations(database) == []


async def test_bad_custom_ids_refuse_the_file_all_the_same(mill: Mill, database: Database) -> None:
    options = FileOptions(format="jsonl", fail_items=True)
    batch_id = await mill.batch(lines(2) + lines(1), 3, options)
    await mill.ingests.step()
    assert '"/lines/3/custom_id"' in await error(database, batch_id)
    assert await count(database, "item", batch_id) == 0


async def owned(mill: Mill, content: bytes, total: int) -> tuple[UUID, UUID]:
    """A batch and the bytes that came with its create."""
    new = new_batch()
    file_id = await mill.file(content)
    async with mill.database.engine.begin() as connection:
        await files.expect(connection, TENANT, [file_id])
    given = FileOptions(format="jsonl").model_dump_json()
    async with mill.database.transaction() as tx:
        await ingests.create(tx, new, total, file_id, given, owned=True)
    return new.id, file_id


@pytest.mark.parametrize(
    ("content", "status"), [(lines(3), BatchStatus.IN_PROGRESS), (b"{}\n", BatchStatus.FAILED)]
)
async def test_requests_that_came_with_their_batch_go_once_they_are_read(
    mill: Mill, database: Database, content: bytes, status: BatchStatus
) -> None:
    batch_id, file_id = await owned(mill, content, content.count(b"\n"))
    discards = Discards(database, mill.storage)
    assert await discards.step() == 0
    await mill.ingests.step()
    assert (await get(database, batch_id)).status == status
    path = mill.storage.path(file_key(TENANT, file_id))
    assert path is not None
    assert path.exists()
    assert await discards.step() == 1
    assert not path.exists()


async def test_requests_that_came_with_their_batch_are_not_looked_for_among_the_tenants_files(
    mill: Mill, database: Database
) -> None:
    async def none(tenant_id: UUID, file_id: UUID) -> None:
        return None

    batch_id, _ = await owned(mill, lines(2), 2)
    sources = Sources(mill.storage, mill.services.http, none, max_bytes=10**9)
    mill.services = replace(mill.services, open_source=sources.open)
    await mill.another().step()
    batch = await get(database, batch_id)
    assert (batch.status, batch.ingesting) == (BatchStatus.IN_PROGRESS, False)


async def test_requests_that_were_given_up_meanwhile_make_no_batch(mill: Mill, database: Database) -> None:
    new = new_batch()
    with pytest.raises(Conflict):
        async with mill.database.transaction() as tx:
            await ingests.create(tx, new, 1, uuid4(), "{}", owned=True)
