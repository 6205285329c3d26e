"""The rule: every statement of the engine is written for given batches (docs/decisions/0015-one-batch-one-shard.md).

The engine leads batches through their lives, what it says to Postgres is written down, and Postgres tells by which batch each
statement finds its rows.
"""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

import factories
from factories import (
    TENANT,
    all_of,
    claim,
    enforce,
    erase,
    expire,
    failure,
    get,
    in_chats,
    lose,
    make_batch,
    make_born,
    make_worker,
    new_batch,
    record,
    retry,
    sql,
    success,
    sweep,
    turn,
)  # fmt: skip
from gristmill.db import Database
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.errors import Problem
from gristmill.domain.limits import FailureThreshold, LimitAction
from gristmill.domain.states import ItemStatus
from gristmill.store import (
    checkpoints,
    endings,
    feed,
    histories,
    ingests,
    leases,
    limited_claims,
    new_batches,
    results,
    retention,
    retries,
    schedules,
    service_limits,
    spans,
    transitions,
)
from gristmill.store.copying import FEW
from gristmill.store.new_batches import NewItem, NewWebhook
from gristmill.store.recording import Flush
from statements import BIG, Catalog, Heard, HeardDatabase, Reach

# Why a statement may find rows of small tables otherwise than by given batches.
CHOOSES = "chooses a batch to work on"
BY_KEY = "is handed keys of rows that were read, or locked, for given batches in the same transaction"
BY_CHAT = "a chat goes on through many batches"
LOOKS_ROUND = "says whether others' items run while this batch waits"
DUTY = "looks for what is left over or overdue, on behalf of no batch, off the way of an item"
# By function: why, and in which tables.
EXCEPTIONS: dict[str, tuple[str, set[str]]] = {
    "batches.get": (LOOKS_ROUND, {"batch", "lease"}),
    "endings._shorten": (BY_KEY, {"span"}),
    "endings.clear_leftovers": (DUTY, {"batch", "lease", "span"}),
    "endings.expire": (DUTY, {"batch_schedule", "span"}),
    "endings.some_stop": (DUTY, {"batch", "batch_count", "batch_schedule", "span"}),
    "endings.sweep": (DUTY, {"batch", "span"}),
    "histories.enter": (BY_CHAT, {"history_lock"}),
    "histories.leave": (BY_CHAT, {"batch_schedule", "history_lock", "span"}),
    "histories.let_go": (BY_KEY, {"span"}),
    "histories.let_stranded_go": (DUTY, {"batch_schedule", "history_lock", "span"}),
    "ingests.claim": (CHOOSES, {"batch", "ingest"}),
    "leases._end": (BY_KEY, {"lease"}),
    "leases.disown": (DUTY, {"lease"}),
    "leases.reclaim": (DUTY, {"lease"}),
    "limits.enforce": (DUTY, {"batch", "batch_count", "batch_schedule", "span"}),
    "recording._hold": (BY_KEY, {"lease"}),
    "recording._record_few": (BY_KEY, {"batch_schedule", "lease", "span"}),
    "retention.erase": (DUTY, {"batch_remains"}),
    "retention.expire": (DUTY, {"batch", "delivery"}),
    "schedules.forget_tenants": (DUTY, {"batch_schedule"}),
    "claims.born": (LOOKS_ROUND, {"batch_count", "batch_schedule", "lease", "span"}),
    "limited_claims.hold": (CHOOSES, {"batch", "batch_count", "batch_schedule", "lease", "span"}),
    "claims.claim": (CHOOSES, {"batch", "batch_count", "batch_schedule", "lease", "span"}),
    "claims.set_remaining": (BY_KEY, {"lease"}),
}
# Statements on big tables for several batches at once, all of them given: those of whoever brings what ended in them.
SEVERAL = {
    "checkpoints.forget_data", "counts.add", "endings.sweep", "histories.held_by", "histories.leave", "recording._insert",
    "recording._keep_attempts", "recording._record_few", "retries.withdraw_late",
}  # fmt: skip
# Statements that touch big tables and small ones at once. Those that write are the ones in the way of another server for the big.
READ_BOTH = {"histories.held_by", "histories.leave", "leases._missing", "results.at", "results.one", "results.rows",
             "results.running", "results.window"}  # fmt: skip
WRITE_BOTH = {
    "checkpoints.advance", "checkpoints.save", "counts.add", "leases._keep_attempts", "new_batches.insert",
    "recording._keep_attempts", "recording._record_few", "retries._move", "retries.withdraw_late",
}  # fmt: skip


@pytest.fixture(scope="module")
async def heard(server) -> AsyncIterator[tuple[list[Heard], dict[Heard, Reach]]]:  # type: ignore[no-untyped-def]
    name = f"gristmill_test_{uuid4().hex}"
    database = await HeardDatabase(await server.create(name, template=server.template)).open()
    await _lives(database)
    connection = await database.connect()
    try:
        if connection.get_server_version().major < 16:
            pytest.skip("a plan without the values is of Postgres 16 and later")
        catalog = await Catalog.of(connection)
        said = list(dict.fromkeys(database.heard))
        yield said, {one: await catalog.reach(one.text) for one in said if one.copied is None}
    finally:
        await connection.close()
        await database.close()
        await server.drop(name)


# --- lives -----------------------------------------------------------------------------------------------------------

HOOK = NewWebhook(
    "https://example.com/hook", ("created", "started", "completed", "cancelled", "paused", "resumed")
)
REFUSED = NewItem("refused", "{}", error='{"type":"bad","message":"as asked"}')


async def _lives(database: Database) -> None:
    for life in (
        _worked,
        _limited,
        _tried_again,
        _in_chats,
        _lost,
        _stopped,
        _run_again,
        _read,
        _ingested,
        _ended_for_good,
    ):
        await life(database)


async def _worked(database: Database) -> None:
    """By COPY, by INSERT, in one statement, and by a flush that brings two batches."""
    worker = await make_worker(database)
    items = [NewItem(f"i{n}", "{}") for n in range(FEW + 100)]
    first = await make_batch(database, [*items, REFUSED], webhook=HOOK)
    second = await make_batch(database, 3)
    for many in (FEW + 1, 1):
        await record(database, worker, all_of(await claim(database, worker, many)), alone=True)
    both = [*await claim(database, worker, 5), *await claim(database, worker, 5)]
    assert {lease.batch_id for lease in both} == {first, second}
    await record(database, worker, all_of(both))
    while found := await claim(database, worker, 50):
        await record(database, worker, all_of(found))
    assert (await get(database, first)).status == "completed"
    _, born = await make_born(database, worker, 3, 2, webhook=HOOK)
    assert born.taken == 2
    await record(database, worker, all_of([*born.leases, *await claim(database, worker, 5)]))


async def _limited(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, 3)
    async with database.transaction() as tx:
        await service_limits.put(tx, "processor", "noop", max_in_flight=2)
        found = (await limited_claims.claim(tx, worker, {"noop": 9})).leases
        await service_limits.remove(tx, "processor", "noop")
    await record(database, worker, all_of([*found, *await claim(database, worker, 5)]))
    assert (await get(database, batch_id)).status == "completed"


async def _tried_again(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, 4)
    [lease] = await claim(database, worker, 4)
    async with database.transaction() as tx:
        assert await checkpoints.save(tx, lease.id, batch_id, 0, Checkpoint("half", "{}", 1, 2))
        assert await checkpoints.advance(tx, lease.id, batch_id, 0, 2)
        assert await checkpoints.load(tx, batch_id, 0)
    again = [retry(lease, 1), retry(lease, 2, waiting=True)]
    back = [(lease.id, spans.Waiting(batch_id, 3, 3, 0, 0))]
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 0, checkpointed=True)], again, back))
    found = await claim(database, worker, 4)
    assert sum(len(one.items) for one in found) == 3
    await record(database, worker, all_of(found))


async def _in_chats(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, in_chats(1, 1, 2), webhook=HOOK)
    found = await claim(database, worker, 3)
    await turn(database, transitions.pause, batch_id)
    await record(database, worker, all_of(found))
    await turn(database, transitions.resume, batch_id)
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)


async def _lost(database: Database) -> None:
    """Taken back, ended for it, given back by who does not know it."""
    batch_id = await make_batch(database, 3, max_attempts=1)
    for _ in range(3):
        worker = await make_worker(database)
        while await claim(database, worker, 3):
            pass
        await lose(database, worker)
    assert (await get(database, batch_id)).failed == 3
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    await claim(database, worker, 3)
    async with database.transaction() as tx:
        assert await leases.disown(tx, worker, [])
    await record(database, worker, all_of(await claim(database, worker, 3)))


async def _stopped(database: Database) -> None:
    worker = await make_worker(database)
    overdue = await make_batch(database, 3)
    await expire(database, overdue)
    async with database.connection() as connection:
        assert await endings.some_stop(connection)
    await sweep(database)
    for action in (LimitAction.FAIL, LimitAction.PAUSE):
        limited = await make_batch(
            database, 5, webhook=HOOK, failure_threshold=FailureThreshold(0.1, 1, action)
        )
        [lease] = await claim(database, worker, 1)
        await record(database, worker, Flush({lease.id: 0}, [failure(lease, 0)]))
        assert await enforce(database) == 1
        if action is LimitAction.PAUSE:
            await turn(database, transitions.resume, limited)
            await turn(database, transitions.cancel, limited)
        await sweep(database)


async def _run_again(database: Database) -> None:
    """And a worker of the run before comes late."""
    late, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, 2)
    old = await claim(database, late, 2)
    await lose(database, late)
    found = await claim(database, worker, 2)
    await record(database, worker, Flush({found[0].id: 0}, [failure(found[0], n) for n in (0, 1)]))
    await turn(database, retries.retry, batch_id)
    await record(database, late, all_of(old))
    assert (await get(database, batch_id)).pending == 2
    await record(database, worker, all_of(await claim(database, worker, 2)))
    async with database.transaction() as tx:
        await transitions.change(tx, TENANT, batch_id, transitions.Changes(name="other"))


async def _read(database: Database) -> None:
    batch_id = await make_batch(database, 10)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 5)
    await record(
        database, worker, Flush({lease.id: 2}, [success(lease, 0), success(lease, 1), failure(lease, 2)])
    )
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        for status in ItemStatus:
            await factories.page(connection, batch, limit=5, status=status)
        await factories.page(connection, batch, limit=5, error_code=500, after=1)
        await factories.page(connection, batch, limit=5)
        await results.window(connection, batch, 0, 5)
        await results.one(connection, batch, "item-0")
        await results.inputs(connection, batch, [0, 1])
        await results.running(connection, batch, 10)
        await results.settled(connection, batch)
        shown = await results.at(connection, batch, [0, 1])
        await results.with_checkpoints(connection, batch, shown)
        assert await feed.window(connection, batch, feed.BEGINNING, 10)
    await record(database, worker, Flush({lease.id: 0}, [success(lease, n) for n in (3, 4)]))
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)


async def _ingested(database: Database) -> None:
    for good in (True, False):
        new = new_batch(webhook=HOOK)
        async with database.transaction() as tx:
            await ingests.create(tx, new, 3, uuid4(), "{}")
        async with database.connection() as connection:
            ingest = await ingests.claim(connection, 30.0, ["noop"])
        assert ingest
        async with database.transaction() as tx:
            assert await ingests.extend(tx, ingest, 30.0)
            if good:
                await new_batches.add_items(tx, new.id, 0, [NewItem("a", "{}"), REFUSED, NewItem("c", "{}")])
                assert await ingests.complete(tx, ingest, failed=[1], config="{}")
            else:
                assert await ingests.refuse(tx, ingest, [Problem("/0", "bad", "as asked")])
    await turn(
        database,
        transitions.cancel,
        (await sql(database, "SELECT max(batch_id::text)::uuid FROM batch_schedule"))[0],
    )
    await sweep(database)


async def _ended_for_good(database: Database) -> None:
    deleted, expired = [await make_batch(database, 2) for _ in range(2)]
    worker = await make_worker(database)
    while found := await claim(database, worker, 2):
        await record(database, worker, all_of(found))
    await turn(database, transitions.delete, deleted)
    await sql(database, "UPDATE batch SET expires_at = now() WHERE id = $1", expired)
    async with database.transaction() as tx:
        assert await retention.expire(tx) == 1
        await endings.clear_leftovers(tx)
        await histories.let_stranded_go(tx)
        await schedules.forget_tenants(tx)
    await sql(database, "UPDATE batch_remains SET due_at = now()")
    await erase(database)


# --- what is true of them --------------------------------------------------------------------------------------------

Everything = tuple[list[Heard], dict[Heard, Reach]]


def _by_function(reached: dict[Heard, Reach]) -> dict[str, Reach]:
    all_: dict[str, Reach] = {}
    for one, found in reached.items():
        of = all_.setdefault(one.where, Reach())
        of.one |= found.one
        of.several |= found.several
        of.unbound |= found.unbound
    return all_


def test_every_statement_is_for_given_batches_or_has_a_reason_not_to_be(heard: Everything) -> None:
    unbound = {where: found.unbound for where, found in _by_function(heard[1]).items() if found.unbound}
    assert unbound == {where: tables for where, (_, tables) in EXCEPTIONS.items()}


def test_nothing_looks_for_rows_of_the_big_tables_without_the_batch(heard: Everything) -> None:
    reached = _by_function(heard[1])
    assert set().union(*(found.tables for found in reached.values())) >= BIG
    assert {where: found.unbound & BIG for where, found in reached.items() if found.unbound & BIG} == {}


def test_those_for_several_batches_are_known(heard: Everything) -> None:
    assert {where for where, found in _by_function(heard[1]).items() if found.several & BIG} == SEVERAL


def test_those_that_touch_big_and_small_tables_at_once_are_known(heard: Everything) -> None:
    mixed = {
        one.where: one.text for one, found in heard[1].items() if found.tables & BIG and found.tables - BIG
    }
    writing = {one.where for one, found in heard[1].items() if one.where in mixed and _writes(one, found)}
    assert writing == WRITE_BOTH
    assert set(mixed) - writing == READ_BOTH


def _writes(one: Heard, found: Reach) -> bool:
    both = bool(found.tables & BIG and found.tables - BIG)
    return both and any(
        word in one.text for word in ("INSERT INTO", "UPDATE item", "UPDATE batch", "DELETE FROM")
    )


def test_a_copy_of_items_is_for_one_batch(heard: Everything) -> None:
    copied = [one.copied for one in heard[0] if one.copied]
    assert {table for table, _ in copied} == {"item", "result"}
    assert all(batches == 1 for table, batches in copied if table == "item")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT input FROM item WHERE custom_id = $1", Reach(unbound={"item"})),
        ("SELECT input FROM item WHERE ordinal = $2 AND batch_id = $1", Reach(one={"item"})),
        ("SELECT input FROM item WHERE batch_id = $1 OR ordinal = $2", Reach(unbound={"item"})),
        ("UPDATE result SET code = 1 FROM item i WHERE i.batch_id = $1 AND i.ordinal = result.ordinal",
            Reach(one={"item"}, unbound={"result"})),
        ("SELECT FROM item i JOIN result r USING (batch_id, ordinal) WHERE r.batch_id = $1", Reach(one={"item", "result"})),
        ("DELETE FROM result r USING unnest($1::uuid[]) AS g (b) WHERE r.batch_id = g.b", Reach(several={"result"})),
        ("SELECT FROM item WHERE batch_id = ANY ($1::uuid[])", Reach(several={"item"})),
        ("SELECT FROM item i JOIN batch b ON b.id = i.batch_id WHERE b.tenant_id = $1", Reach(unbound={"item", "batch"})),
        ("INSERT INTO result_log (batch_id, run, upto, ordinals) SELECT batch_id, 1, 1, '{}' FROM span WHERE id = $1",
            Reach(unbound={"result_log", "span"})),
    ],
)  # fmt: skip
async def test_the_check_sees_by_what_rows_are_found(
    database: Database, statement: str, found: Reach
) -> None:
    async with database.connection() as connection:
        assert await (await Catalog.of(connection)).reach(statement) == found
