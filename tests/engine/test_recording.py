import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from factories import (
    all_of,
    blocked,
    claim,
    drain,
    events,
    failure,
    get,
    lose,
    make_batch,
    make_worker,
    reclaim,
    record,
    retry,
    sql,
    success,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.states import BatchStatus, ResultStatus
from gristmill.store import copying, leases, recording, retries, transitions
from gristmill.store.copying import FEW
from gristmill.store.new_batches import NewItem
from gristmill.store.recording import Flush

COPIED = recording.COPY_FROM + 10


async def test_a_batch_is_drained_counted_and_ended_once(database: Database) -> None:
    batch_id = await make_batch(database, 250)
    worker = await make_worker(database)

    assert await drain(database, worker) == 250

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed, batch.pending) == (BatchStatus.COMPLETED, 250, 0, 0)
    assert batch.progress == 1.0
    assert batch.completed_at is not None
    assert await events(database, batch_id) == ["completed"]
    assert await violations(database) == []


async def test_a_flush_that_is_sent_again_counts_nothing_twice(database: Database) -> None:
    batch_id = await make_batch(database, 10)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 6)
    flush = Flush({lease.id: 3}, [success(lease, 0), failure(lease, 1)], [retry(lease, 2, 3600)])

    await record(database, worker, flush)
    await record(database, worker, flush)

    batch = await get(database, batch_id)
    assert (batch.success, batch.failed, batch.processing, batch.pending) == (1, 1, 3, 5)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM span WHERE first = 2 AND last = 2") == 1
    assert await violations(database) == []


@pytest.mark.parametrize("items", [3, 2 * recording.COPY_FROM])
async def test_what_is_in_a_flush_twice_since_a_crash_forgot_its_claim_counts_once(
    database: Database, items: int
) -> None:
    """Claims do not wait for the disk, and the worker runs what Postgres has forgotten: here again, beside its second claim."""
    batch_id = await make_batch(database, items + 1)
    worker = await make_worker(database)
    forgotten = await claim(database, worker, items)
    await sql(database, "DELETE FROM lease")
    await sql(database, "UPDATE span SET first = 0")
    again = await claim(database, worker, items)
    both = [
        success(lease, item.ordinal, output=f'"{n}"')
        for n, leases in enumerate((forgotten, again))
        for lease in leases
        for item in lease.items
    ]
    flush = Flush({lease.id: 0 for lease in [*forgotten, *again]}, both)
    async with database.transaction() as tx:
        await recording.record(tx, worker, flush, alone=False)

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.pending) == (BatchStatus.IN_PROGRESS, items, 1)
    assert set(await sql(database, "SELECT output FROM result")) == {'"0"'}
    assert await violations(database) == []


async def test_results_recorded_by_a_worker_thought_dead_are_kept_and_not_run_again(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 4)
    zombie, other = await make_worker(database), await make_worker(database)
    held = await claim(database, zombie, 4)
    await lose(database, zombie)

    await record(database, zombie, Flush({held[0].id: 3}, [success(held[0], 1)]))
    again = await claim(database, other, 4)

    assert [item.ordinal for lease in again for item in lease.items] == [0, 2, 3]
    await record(database, other, all_of(again))
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_a_zombie_changes_no_result_that_others_recorded(database: Database) -> None:
    batch_id = await make_batch(database, 60)
    zombie, other = await make_worker(database), await make_worker(database)
    held = await claim(database, zombie, 60)
    await lose(database, zombie)
    await record(database, other, all_of(await claim(database, other, 60)), alone=True)

    late = Flush({held[0].id: 0}, [failure(held[0], n) for n in range(60)])
    await record(database, zombie, late)

    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (60, 0)
    assert await events(database, batch_id) == ["completed"]
    assert await violations(database) == []


@pytest.mark.parametrize("items", [60, FEW + 60])
async def test_a_flush_that_should_be_alone_and_meets_a_recorded_result_is_refused_whole(
    database: Database, items: int
) -> None:
    """In one statement, and by COPY."""
    batch_id = await make_batch(database, items)
    worker = await make_worker(database)
    held = await claim(database, worker, items)
    await record(database, worker, Flush({held[0].id: items - 1}, [success(held[0], 7)]))

    with pytest.raises(asyncpg.UniqueViolationError):
        await record(database, worker, all_of(held), alone=True)
    assert (await get(database, batch_id)).success == 1

    await record(database, worker, all_of(held), alone=False)
    assert (await get(database, batch_id)).success == items
    assert await violations(database) == []


async def test_of_few_results_none_is_lost_if_a_lease_has_been_taken_back(database: Database) -> None:
    """Of two batches; the lease of one has been taken back meanwhile, as of a worker that was thought dead."""
    worker = await make_worker(database)
    for _ in range(2):
        await make_batch(database, 4)
    [kept], [gone] = await claim(database, worker, 4), await claim(database, worker, 4)
    await sql(database, "UPDATE lease SET deadline_at = now() - interval '1 s' WHERE id = $1", gone.id)
    await reclaim(database)
    ended = [*(success(gone, n) for n in (0, 1)), *(success(kept, n) for n in (2, 0, 1))]

    await record(database, worker, Flush({kept.id: 1, gone.id: 2}, ended), alone=True)

    assert [(await get(database, one.batch_id)).success for one in (kept, gone)] == [3, 2]
    assert await sql(database, "SELECT id, remaining FROM lease") == [(kept.id, 1)]
    assert await violations(database) == []


async def test_few_results_of_an_earlier_run_change_nothing_of_the_new_one(database: Database) -> None:
    late, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, 3)
    old = await claim(database, late, 3)
    await lose(database, late)
    [lease] = await claim(database, worker, 3)
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, n) for n in range(3)]), alone=True)
    await turn(database, retries.retry, batch_id)

    await record(database, late, all_of(old), alone=True)

    batch = await get(database, batch_id)
    assert (batch.status, batch.pending, batch.success) == (BatchStatus.IN_PROGRESS, 3, 0)
    assert await drain(database, worker) == 3
    assert await violations(database) == []


async def test_many_results_at_once_are_the_rows_that_each_alone_would_be(database: Database) -> None:
    """All that a result may hold, packed for a COPY, given to an INSERT, and recorded in one statement, as far as that can be;
    more of it than is sent at a time."""
    kinds: list[dict[str, Any]] = [
        {},
        {"output": '"é 日本 🙂 \\N"'},
        {"content": "a\ttab, a\nline, \\N and \\., \r, \u00fc, \U0001f680", "output": None},
        {"content": "both", "output": "[1]"},
        {"output": None},
        {"output": f'"{"x" * 60_000}"'},
        {"error": '{"type":"odd"}'},
        {"usage": '{"calls":[]}'},
        {"usage": '{"calls":[]}', "content": "", "error": "{}"},
        {"history_id": 2**40},
        {"history_id": 2**40, "conversation_id": 2**62, "content": "said"},
        {"code": 408, "output": None, "error": "{}"},
        {"code": 500, "output": None, "usage": "{}", "history_id": 7},
        {"attempt": 32_767},
        {"attempt": 32_767, "started_at": datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC)},
    ]
    worker = await make_worker(database)
    found = []
    for alone in (True, False, None):
        batch_id = await make_batch(database, 5 * len(kinds))
        [lease] = await claim(database, worker, 5 * len(kinds))
        ended = []
        for n in range(5 * len(kinds)):
            more = dict(kinds[n % len(kinds)])
            of_lease = {name: more.pop(name) for name in ("attempt", "started_at") if name in more}
            ended.append(success(replace(lease, **of_lease), n, **more))
        assert len(ended) >= recording.COPY_FROM
        assert not recording._are_few(Flush({lease.id: 0}, ended))
        if alone is None:
            few = [e for e in ended if e.history_id is None]
            ended = [e for e in ended if e.history_id is not None]
            assert recording._are_few(Flush({lease.id: len(ended)}, few))
            await record(database, worker, Flush({lease.id: len(ended)}, few), alone=True)
        await record(database, worker, Flush({lease.id: 0}, ended), alone=bool(alone))
        async with database.connection() as connection:
            rows = await connection.fetch(
                """
                SELECT ordinal, status, code, attempt, content, output, error, usage, history_id, conversation_id,
                    CASE WHEN started_at = $2 THEN 'as leased' ELSE started_at::text END AS started
                FROM result WHERE batch_id = $1 ORDER BY ordinal
                """,
                batch_id,
                lease.started_at,
            )
        found.append([dict(row) for row in rows])
    copied, inserted, few = found
    assert copied == inserted == few
    for row in copied:
        given = {"output": f'{{"was":{row["ordinal"]}}}', "code": None} | kinds[row["ordinal"] % len(kinds)]
        given["status"] = ResultStatus.SUCCESS if given["code"] is None else ResultStatus.FAILED
        assert all(row[name] == value for name, value in given.items() if name != "started_at")


@pytest.mark.parametrize("alone", [True, False])
async def test_a_flush_logs_the_ordinals_of_each_of_its_batches_in_the_order_in_which_they_ended(
    database: Database, alone: bool
) -> None:
    worker = await make_worker(database)
    orders = [(0, 1, 2, 3), (3, 1, 0), (2,), (1, 2, 3), (0, 2, 3), (3, 2)]
    flush, expected = Flush({}, []), {}
    for order in orders:
        batch_id = await make_batch(database, 4)
        [lease] = await claim(database, worker, 4)
        flush = Flush(
            {**flush.remaining, lease.id: 4 - len(order)},
            [*flush.ended, *(success(lease, ordinal) for ordinal in order)],
        )
        expected[batch_id] = list(order)

    await record(database, worker, flush, alone=alone)

    async with database.connection() as connection:
        rows = await connection.fetch("SELECT batch_id, ordinals, upto FROM result_log")
    assert {row["batch_id"]: row["ordinals"] for row in rows} == expected
    assert all(row["upto"] == len(row["ordinals"]) for row in rows)
    assert await violations(database) == []


async def test_the_last_result_the_end_and_its_event_are_one_transaction(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    held = await claim(database, worker, 3)

    class Crash(Exception):
        pass

    async def crash_after_recording() -> None:
        async with database.transaction() as tx:
            await recording.record(tx, worker, all_of(held))
            raise Crash

    with pytest.raises(Crash):
        await crash_after_recording()
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.processing) == (BatchStatus.IN_PROGRESS, 0, 3)
    assert await events(database, batch_id) == []


@pytest.mark.parametrize("left", [1, 0])
async def test_few_results_wait_for_whoever_gives_their_lease_more_time(
    database: Database, left: int
) -> None:
    """As is done while items wait for a permit. The lease is brought down in the row that has been changed."""
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 3)
    flush = Flush({lease.id: left}, [success(lease, ordinal) for ordinal in range(3 - left)])
    async with database.transaction() as tx:
        await tx.execute("UPDATE lease SET deadline_at = now() + interval '1 h'")
        late = asyncio.create_task(record(database, worker, flush, alone=True))
        await blocked(database, late)
        assert not late.done()
    await late

    assert await sql(database, "SELECT remaining FROM lease") == [left] * bool(left)
    batch = await get(database, batch_id)
    assert (batch.success, batch.status is BatchStatus.COMPLETED) == (3 - left, not left)
    assert await violations(database) == []


async def test_few_results_are_kept_if_their_lease_goes_while_they_wait_for_it(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    held = await claim(database, worker, 3)
    async with database.transaction() as tx:
        await leases._end(tx, await tx.fetch("SELECT id FROM lease FOR UPDATE"))
        late = asyncio.create_task(record(database, worker, all_of(held), alone=True))
        await blocked(database, late)
        assert not late.done()
    await late

    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_few_results_with_one_twice_are_refused_whole_and_then_count_once(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 3)
    twice = Flush({lease.id: 0}, [success(lease, ordinal) for ordinal in (0, 1, 2, 1)])

    with pytest.raises(asyncpg.UniqueViolationError):
        await record(database, worker, twice, alone=True)
    assert (await get(database, batch_id)).success == 0
    await record(database, worker, twice, alone=False)

    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


def test_what_is_large_is_copied_however_few_rows_it_has() -> None:
    assert copying.are_few(range(FEW), lambda _: copying.FEW_CHARACTERS // FEW)
    assert not copying.are_few(range(FEW + 1), lambda _: 0)
    assert not copying.are_few(range(2), lambda _: copying.FEW_CHARACTERS // 2 + 1)


async def test_few_but_large_items_and_results_come_back_as_they_were(database: Database) -> None:
    """Beyond what goes in with other statements: both by COPY."""
    text = "x" * (copying.FEW_CHARACTERS // COPIED + 1)
    batch_id = await make_batch(database, [NewItem(f"i{n}", f'"{text}{n}"') for n in range(COPIED)])
    worker = await make_worker(database)
    [lease] = await claim(database, worker, COPIED)
    assert [item.input for item in lease.items] == [f'"{text}{n}"' for n in range(COPIED)]
    flush = Flush({lease.id: 0}, [success(lease, n, output=f'"{text}{n}"') for n in range(COPIED)])
    assert not recording._are_few(flush)

    await record(database, worker, flush, alone=True)

    found = await sql(database, "SELECT output FROM result ORDER BY ordinal")
    assert found == [f'"{text}{n}"' for n in range(COPIED)]
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED


async def test_a_retry_goes_back_to_wait_while_its_batch_is_paused(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await turn(database, transitions.pause, batch_id)

    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0)]))

    assert await claim(database, worker, 5) == []
    await turn(database, transitions.resume, batch_id)
    assert await drain(database, worker) == 2
    assert await violations(database) == []


async def test_a_retry_ends_with_its_own_code_once_its_batch_is_cancelled(database: Database) -> None:
    batch_id = await make_batch(database, 1)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await turn(database, transitions.cancel, batch_id)

    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0)]))

    batch = await get(database, batch_id)
    assert (batch.status, batch.failed, batch.cancelled) == (BatchStatus.CANCELLED, 1, 0)
    assert await events(database, batch_id) == ["cancelled"]
    assert await violations(database) == []


async def test_results_of_any_text_come_back_as_they_were_however_many_are_written_at_once(
    database: Database,
) -> None:
    texts = [
        "",
        "\\N",
        "\\.",
        "a\tb\nc\rd\r\n",
        "\\",
        "\\\\n",
        "\x01\x1f\x7f\u2028",
        "é 日本 🙂",
        '{"a": "\\n\\u0000"}',
        "x" * 300_000,
    ]
    batch_id = await make_batch(database, 60)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 60)
    ended = [  # every second one has no more than an output
        success(lease, n, content=texts[n % len(texts)] if n % 2 else None, output=texts[n // 2 % len(texts)])
        for n in range(59)
    ]
    ended += [failure(lease, 59)]

    await record(database, worker, Flush({lease.id: 0}, ended), alone=True)

    columns = "ordinal, status, code, attempt, content, output, error, usage, history_id, conversation_id, started_at"
    rows = await sql(database, f"SELECT {columns} FROM result WHERE batch_id = $1 ORDER BY ordinal", batch_id)
    assert [tuple(row) for row in rows] == [
        (
            e.ordinal,
            e.status,
            e.code,
            lease.attempt,
            e.content,
            e.output,
            e.error,
            None,
            None,
            None,
            lease.started_at,
        )
        for e in ended
    ]
    assert await violations(database) == []
