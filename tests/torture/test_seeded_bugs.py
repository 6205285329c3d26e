"""The bench sees bugs: each is put into a copy of the service, which then does the work, and the checker finds what it did.

What the same scenarios find in the service as it is, which is nothing, is in the other files.
"""

import asyncio
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import gristmill
from fakes.receiver import Receiver
from torture.checker import findings
from torture.evidence import gathered
from torture.fleet import Fleet
from torture.load import Load
from torture.proxy import Proxy
from torture.test_crashes import who_waits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ENDS_SECONDS = 60.0  # from the end of its last run a batch has so long to end itself


@dataclass(frozen=True)
class Change:
    """In a file below `gristmill`: the text, which is there once, and what takes its place."""

    path: str
    text: str
    becomes: str


COUNTS_WHAT_WAS_SUBMITTED = [
    Change(
        "store/recording.py",
        "return [e for e in ended if (key := _key(e)) in new and firsts[key] is e]",
        "return list(ended)",
    )
]
HAS_NO_FENCE = [
    Change(
        "store/recording.py",
        "AND worker_id IS NOT DISTINCT FROM $3\n        AND remaining > ($2::int[])[array_position($1::bigint[], id)]\n",
        "AND $3::bigint IS NOT NULL\n",
    )
]
_CLEARS = """\
                self._some.clear()
                self._enough.clear()
                self._is_enough = False
"""
CLEARS_THE_FLAG_LATE = [
    Change("worker/recorder.py", f"{_CLEARS}                if stop", "                if stop"),
    Change(
        "worker/recorder.py",
        "                await self._flush()\n        finally",
        f"                await self._flush()\n{_CLEARS}        finally",
    ),
]
ANNOUNCES_AFTERWARDS = [
    Change(
        "store/endings.py",
        "        await _announce(tx, ended)\n    return len(ended)",
        """        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(_afterwards(ended)))
    return len(ended)


async def _afterwards(ended):
    connection = await asyncpg.connect(**connect_options(os.environ["GRISTMILL_DATABASE_URL"]))
    async with connection.transaction():
        await _announce(connection, ended)
    await connection.close()""",
    ),
    Change(
        "store/endings.py",
        "from collections.abc import Sequence\n",
        "import asyncio\nimport os\nfrom collections.abc import Sequence\nimport asyncpg\n"
        "from gristmill.db import connect_options\n",
    ),
]


def changed_source(folder: Path, changes: list[Change]) -> Path:
    """A folder with a copy of `gristmill` in it that has these bugs."""
    installed = Path(gristmill.__file__).parent
    source = folder / "source"
    shutil.copytree(installed, source / "gristmill", ignore=shutil.ignore_patterns("__pycache__"))
    if (migrations := installed.parents[1] / "migrations").is_dir():  # as in an installed package
        shutil.copytree(migrations, source / "gristmill" / "_migrations")
    for change in changes:
        path = source / "gristmill" / change.path
        text = path.read_text("utf-8")
        assert text.count(change.text) == 1, f"{change.path} has changed: adapt this bug to it"
        path.write_text(text.replace(change.text, change.becomes), "utf-8")
    return source


Scenario = Callable[[str, Path, Path, Receiver], Awaitable[list[str]]]


async def replies_are_lost(url: str, folder: Path, source: Path, _: Receiver) -> list[str]:
    """A third of the COMMITs is not heard of, so that flushes are sent twice; every item has a second attempt."""
    async with Proxy.to_postgres(url) as proxy:
        through = proxy.postgres_url(url)
        async with Fleet(through, folder, source=source, lease_seconds=30) as fleet:
            load = Load(fleet, None, folder, random.Random(1), patient=True)
            proxy.drop_every = 3
            told = [await load.post(_inputs(40)) for _ in range(4)]
            await watched(load, told)
            proxy.heal()
            return [*load.noticed, *findings(await gathered(load, url))]


async def the_last_ends_during_a_flush(url: str, folder: Path, source: Path, _: Receiver) -> list[str]:
    """The result of the first of two is held where it is written until the other has ended, too."""
    async with Fleet(url, folder, source=source, workers=1, lease_seconds=30) as fleet:
        load = Load(fleet, None, folder, random.Random(1))
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            # Of its partitions, too: what a result is written into. Reading goes on.
            await connection.execute("LOCK TABLE result IN SHARE MODE")
            told = await load.post([{"text": "first"}, {"text": "last", "seconds": 1.0}])
            await who_waits(connection, fleet, "result")
            await load.until(lambda: has_ended(load, 2))
        await connection.close()
        await watched(load, [told])
        return [*load.noticed, *findings(await gathered(load, url))]


async def has_ended(load: Load, runs: int) -> bool:
    return load.ledger.ended.total() == runs


async def killed_at_the_announcement(url: str, folder: Path, source: Path, receiver: Receiver) -> list[str]:
    """The worker that is about to write the event is killed there."""
    async with Fleet(url, folder, source=source) as fleet:
        load = Load(fleet, receiver, folder, random.Random(6))
        told = await load.post(_inputs(20))
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE event IN SHARE MODE")
            (await who_waits(connection, fleet)).strike(signal.SIGKILL)
        await connection.close()
        await watched(load, [told])
        await load.all_announced()
        return [*load.noticed, *findings(await gathered(load, url))]


def _inputs(count: int) -> list[dict[str, Any]]:
    rng = random.Random(count)
    return [{"text": str(n), "seconds": rng.uniform(0.01, 0.3), "retries": 1} for n in range(count)]


async def watched(load: Load, batches: list[Any]) -> None:
    """Until all have ended, or something was noticed, or all runs have ended for long and not all batches."""
    still = asyncio.get_running_loop().time()
    runs = 0

    async def decided() -> bool:
        nonlocal still, runs
        ended = [await load.look(told) for told in batches]
        if (now := load.ledger.ended.total()) != runs:
            runs, still = now, asyncio.get_running_loop().time()
        if asyncio.get_running_loop().time() - still > ENDS_SECONDS:
            load.noticed.append("nothing runs any more, and not all batches have ended")
        return all(ended) or bool(load.noticed)

    await load.until(decided)


BUGS: dict[str, tuple[list[Change], Scenario]] = {
    "counts what was submitted in place of what was inserted": (COUNTS_WHAT_WAS_SUBMITTED, replies_are_lost),
    "lets a flush through whose lease is gone": (HAS_NO_FENCE, replies_are_lost),
    "clears the flag after the work in place of before": (CLEARS_THE_FLAG_LATE, the_last_ends_during_a_flush),
    "writes the event outside of the transaction": (ANNOUNCES_AFTERWARDS, killed_at_the_announcement),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_fits_the_service_as_it_is(bug: str, folder: Path) -> None:
    """The long tests below run by command only: this one says when they would not."""
    changes, _ = BUGS[bug]
    source = changed_source(folder, changes)
    for path in {change.path for change in changes}:
        compile((source / "gristmill" / path).read_text("utf-8"), path, "exec")


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS)
async def test_a_service_that_has_the_bug_is_found_out(
    bug: str, own_database_url: str, folder: Path, receiver: Receiver
) -> None:
    changes, scenario = BUGS[bug]
    found = await scenario(own_database_url, folder, changed_source(folder, changes), receiver)
    print(f"{bug}: {len(found)} findings, such as: {found[0][:300] if found else None}")
    assert found != []


@pytest.mark.long
@pytest.mark.parametrize(
    "scenario", [replies_are_lost, the_last_ends_during_a_flush, killed_at_the_announcement]
)
async def test_the_service_as_it_is_passes(
    scenario: Scenario, own_database_url: str, folder: Path, receiver: Receiver
) -> None:
    assert await scenario(own_database_url, folder, changed_source(folder, []), receiver) == []
