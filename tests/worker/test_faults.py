"""A processor that answers rubbish, or a connection that breaks, harms nothing but its own item or its own moment."""

import asyncio
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from databases import Server
from factories import claim, get, make_batch, make_worker, record, retry, sql, violations
from gristmill.db import Database
from gristmill.domain.outcomes import Failure, ItemError, Outcome, Retry, Success
from gristmill.domain.states import BatchStatus
from gristmill.processors.base import Context
from gristmill.store.new_batches import NewItem
from gristmill.store.recording import Flush
from mill import NoConfig, Script, Scripted, at_gate, eventually, working

ERROR = ItemError(500, "scripted", "as asked")
UNKNOWN_CODE = ItemError(100_000, "scripted", "as asked")  # type: ignore[arg-type]


class Odd(Scripted):
    """Items that are to hang do what the test says instead."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__()
        self._answer = answer

    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        if given.do != "hang":
            return await super().run(given, context)
        self.runs[context.batch_id, context.ordinal] += 1
        outcome: Outcome = self._answer()
        return outcome


def _cancelled() -> None:
    raise asyncio.CancelledError


def _group() -> None:
    raise BaseExceptionGroup("of a task group", [asyncio.CancelledError()])


RUBBISH: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a cancellation of its own": _cancelled,
    "a group of them": _group,
    "a content that is no text": lambda: Success(content=5),  # type: ignore[arg-type]
    "a usage that is none": lambda: Success(content="a", usage="b"),  # type: ignore[arg-type]
    "a message that is no Unicode": lambda: Failure(ItemError(500, "scripted", "\ud800")),
    "the same in a retry": lambda: Retry(ItemError(500, "scripted", "\ud800")),
    "a code that is none": lambda: Failure(UNKNOWN_CODE),
    "the same in a retry, with attempts left": lambda: Retry(UNKNOWN_CODE),
    "a delay that is no number": lambda: Retry(ERROR, delay_seconds="soon"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("answer", RUBBISH.values(), ids=RUBBISH)
async def test_an_item_whose_processor_answers_rubbish_ends_as_failed_and_the_others_go_on(
    database: Database, answer: Callable[[], Any]
) -> None:
    odd = Odd(answer)
    batch_id = await make_batch(
        database, [NewItem(f"item-{n}", '{"do":"hang"}' if n == 1 else "{}") for n in range(4)]
    )
    async with working(database, odd, concurrency=2):

        async def completed() -> bool:
            return (await get(database, batch_id)).status is BatchStatus.COMPLETED

        await eventually(completed)

    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (3, 1)
    [error] = await sql(database, "SELECT error FROM result WHERE ordinal = 1")
    assert '"processor_error"' in error
    assert odd.runs[batch_id, 1] == 1
    assert await violations(database) == []


@pytest.mark.parametrize("delay", [math.nan, math.inf, -math.inf, 1e300])
async def test_a_delay_that_no_clock_can_tell_keeps_nobody_from_being_recorded(
    database: Database, delay: float
) -> None:
    odd = Odd(lambda: Retry(ERROR, delay_seconds=delay))
    batch_id = await make_batch(database, [NewItem("a", '{"do":"hang"}')])
    async with working(database, odd):

        async def tried() -> bool:
            return odd.runs[batch_id, 0] > 0

        await eventually(tried)
        other = await make_batch(database, 1)

        async def completed() -> bool:
            return (await get(database, other)).status is BatchStatus.COMPLETED

        await eventually(completed)


async def blocked_backends(database: Database) -> list[int]:
    return await sql(
        database,
        """
        SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' ORDER BY query_start
        """,
    )


async def test_a_flush_that_broke_is_sent_again_although_nothing_else_ends(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(database, [NewItem("a", '{"do":"gate"}')])
    async with working(database, scripted):

        async def blocked() -> bool:
            return len(await blocked_backends(database)) == 1

        async def completed() -> bool:
            return (await get(database, batch_id)).status is BatchStatus.COMPLETED

        await at_gate(scripted, 1)
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM lease FOR UPDATE")
            scripted.gate.set()
            await eventually(blocked)
            await tx.execute("SELECT pg_terminate_backend($1)", (await blocked_backends(database))[0])
        await eventually(completed)
    assert scripted.runs[batch_id, 0] == 1


async def test_a_claim_that_broke_gives_nothing_back_that_waits_to_be_recorded(
    database: Database, scripted: Scripted
) -> None:
    """As when Postgres restarts: the flush of all that ran and the next claim break together."""
    items = [NewItem("a", '{"do":"gate"}'), NewItem("b", '{"do":"hang"}')]
    batch_id = await make_batch(database, items, max_concurrency=1)
    async with working(database, scripted, drain_seconds=0.1):

        async def both_are_blocked() -> bool:
            return len(await blocked_backends(database)) == 2

        async def second_runs() -> bool:
            return scripted.runs[batch_id, 1] == 1

        await at_gate(scripted, 1)
        await make_batch(database, [NewItem("c", '{"do":"hang"}')])
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM lease, tenant_schedule FOR UPDATE")
            scripted.gate.set()
            await eventually(both_are_blocked)
            for backend in await blocked_backends(database):
                await tx.execute("SELECT pg_terminate_backend($1)", backend)
            await eventually(both_are_blocked)
        await eventually(second_runs)
        assert await sql(
            database, "SELECT count(*) FROM span WHERE batch_id = $1 AND first = 0", batch_id
        ) == [0]
    assert scripted.runs[batch_id, 0] == 1
    assert (await get(database, batch_id)).success == 1
    assert await violations(database) == []


async def test_a_claim_of_several_spans_whose_batch_cannot_be_read_is_given_back_whole(
    server: Server, own_database_url: str, scripted: Scripted
) -> None:
    """The worker's user may not read the configuration for a while: the claim is made, and what follows breaks."""
    owner = await Database(own_database_url).open()
    batch_id = await make_batch(owner, 3)
    worker = await make_worker(owner)
    [lease] = await claim(owner, worker, 3)
    await record(owner, worker, Flush({lease.id: 0}, [], [retry(lease, n) for n in range(3)]))
    [before] = await sql(owner, "SELECT last_value FROM lease_id_seq")
    role = f"{urlsplit(own_database_url).path[1:]}_worker"
    await server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'worker'")
    columns = await sql(
        owner,
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'batch'::regclass AND attnum > 0",
    )
    await sql(owner, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    await sql(owner, f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
    await sql(owner, f"REVOKE SELECT ON batch FROM {role}")
    await sql(owner, f"GRANT SELECT ({', '.join(columns)}) ON batch TO {role}")
    await sql(
        owner,
        f"""
        CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN REVOKE SELECT (config) ON batch FROM {role}; RETURN NULL; END $$
        """,
    )
    await sql(owner, "CREATE TRIGGER hide AFTER INSERT ON lease FOR EACH ROW EXECUTE FUNCTION hide()")
    parts = urlsplit(own_database_url)
    where = parts.netloc.rpartition("@")[2]
    limited = await Database(parts._replace(netloc=f"{role}:worker@{where}").geturl()).open()
    try:
        async with working(limited, scripted):

            async def claimed_and_broken() -> bool:
                [made] = await sql(owner, "SELECT last_value FROM lease_id_seq")
                return made == before + 3

            await eventually(claimed_and_broken)
            await sql(owner, "DROP TRIGGER hide ON lease")
            await sql(owner, f"GRANT SELECT ON batch TO {role}")

            async def completed() -> bool:
                return (await get(owner, batch_id)).status is BatchStatus.COMPLETED

            await eventually(completed)
        assert await violations(owner) == []
        assert await sql(owner, "SELECT DISTINCT attempt FROM result") == [2]
    finally:
        await limited.close()
        await sql(owner, f"DROP OWNED BY {role}")
        await owner.close()
        await server.run(f"DROP ROLE {role}")
