"""Postgres is restarted under the service, loses all its connections, has none to give, and has no room left to write."""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import httpx2
import pytest

from databases import Server
from factories import claim, make_batch, make_worker
from gristmill.db import Database
from gristmill.embedded.postgres import DURABLE, EmbeddedPostgres
from gristmill.store import schema
from torture.checker import findings
from torture.evidence import gathered
from torture.fleet import Fleet
from torture.load import BATCHES, Answers, Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

HANG_SECONDS = 5.0  # longer than this no answer may take
MEGABYTE = 1 << 20


async def migrated(postgres: EmbeddedPostgres) -> str:
    """A database of the service on that server."""
    database = Database(await Server(postgres.url, "").create("mill"))
    await schema.migrate(database)
    await database.close()
    return Server(postgres.url, "").url_of("mill")


async def has_recorded(load: Load, count: int) -> bool:
    return load.recorded() >= count or load.ended()


# --- restarts -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def asked_all_along(fleet: Fleet) -> AsyncIterator[Answers]:
    """Somebody reads and creates without a pause, at each API in turn, whatever comes back."""
    answers = Answers()

    async def ask() -> None:
        for n in range(1_000_000):
            client = fleet.apis[n % len(fleet.apis)].client
            began = time.monotonic()
            if n % 3:
                answer = await client.get(f"{BATCHES}?limit=5")
            else:
                request = {"custom_id": "one", "input": {"text": "x"}}
                answer = await client.post(BATCHES, json={"processor": "noop", "requests": [request]})
            answers.note(answer, time.monotonic() - began)
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield answers
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


async def test_postgres_may_be_restarted_at_once_again_and_again(
    durable_postgres: EmbeddedPostgres, folder: Path, at_length: bool, scale: float
) -> None:
    """SIGQUIT: as a crash, with recovery. What is acknowledged stays, answers are 503 meanwhile and come soon."""
    rng = random.Random(7)
    items, restarts = (int(20_000 * scale), int(20 * scale)) if at_length else (300, 2)
    moments = sorted(rng.sample(range(items // 50, items - items // 50), restarts))
    url = await migrated(durable_postgres)
    apis, workers = (2, 4) if at_length else (1, 2)
    async with Fleet(url, folder, apis=apis, workers=workers, lease_seconds=30) as fleet:
        load = Load(fleet, None, folder, rng, patient=True, patience_seconds=1200)
        told = await load.post_file(items)
        crashes: list[float] = []
        async with asked_all_along(fleet) as answers:
            watching = asyncio.create_task(load.watch(told))
            for moment in moments:
                await load.until(lambda moment=moment: has_recorded(load, moment))  # type: ignore[misc]
                crashes.append(time.time())
                await asyncio.to_thread(restarted_at_once, durable_postgres)
            await watching
        evidence = await gathered(load, url)
    evidence.server_crashes = crashes
    print(f"{restarts} restarts in {items} items; {answers}")
    assert findings(evidence) == []
    assert answers.wrong == []
    assert set(answers.statuses) <= {200, 202, 503}
    assert answers.slowest <= HANG_SECONDS


async def test_a_lease_of_a_claim_that_a_crash_forgot_is_never_another_ones(
    durable_postgres: EmbeddedPostgres,
) -> None:
    """Claims do not wait for the disk: a server that crashes forgets them, and how far it had counted."""
    url = await migrated(durable_postgres)
    database = await Database(url).open()
    batch_id = await make_batch(database, 400)
    worker_id = await make_worker(database)
    before = [lease.id for _ in range(100) for lease in await claim(database, worker_id, 1)]
    await asyncio.to_thread(restarted_at_once, durable_postgres)
    await database.close()
    database = await Database(url).open()
    kept = await database.pool.fetchval("SELECT count(*) FROM lease WHERE batch_id = $1", batch_id)
    after = [lease.id for _ in range(100) for lease in await claim(database, worker_id, 1)]
    await database.close()
    assert kept < len(before) == len(after) == 100  # some are forgotten, else this shows nothing
    assert not set(before) & set(after)
    assert before + after == sorted(before + after)


def restarted_at_once(postgres: EmbeddedPostgres) -> None:
    assert postgres._process is not None
    postgres._process.send_signal(signal.SIGQUIT)
    postgres._process.wait(30)
    postgres.revive()


# --- connections --------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow_postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """With as many connections as a fleet of this size needs, and a few more."""
    with EmbeddedPostgres(data_dir / "postgres", {**DURABLE, "max_connections": "40"}) as postgres:
        yield postgres


async def test_all_connections_are_ended_and_others_take_every_place(
    narrow_postgres: EmbeddedPostgres, folder: Path, at_length: bool
) -> None:
    rng = random.Random(8)
    rounds, held_seconds = (10, 30.0) if at_length else (2, 2.0)
    url = await migrated(narrow_postgres)
    async with Fleet(url, folder, lease_seconds=30) as fleet:
        load = Load(fleet, None, folder, rng, patient=True, large=400 if at_length else 60)
        control = await asyncpg.connect(narrow_postgres.url)

        async def harm() -> None:
            for _ in range(rounds):
                before = load.recorded()
                await control.execute(END_ALL)
                await load.until(lambda before=before: has_recorded(load, before + 20))  # type: ignore[misc]
            await no_place_is_left(control, narrow_postgres, fleet, held_seconds)
            before = load.recorded()
            await load.until(lambda: has_recorded(load, before + 20))

        await load.run(harm)
        await control.close()
        evidence = await gathered(load, url)
    print(
        f"{rounds} times all connections ended, then none to be had for {held_seconds:.0f} s; {load.answers}"
    )
    assert findings(evidence) == []
    assert load.answers.statuses[503] > 0
    assert load.answers.slowest <= HANG_SECONDS


END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'mill'"


async def no_place_is_left(
    control: "asyncpg.Connection[asyncpg.Record]", postgres: EmbeddedPostgres, fleet: Fleet, seconds: float
) -> None:
    """Others have every connection for so long, and the service says so."""
    held: list[asyncpg.Connection[asyncpg.Record]] = []

    async def take_all() -> None:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.append(await asyncpg.connect(postgres.url))

    until = time.monotonic() + seconds
    said = 0
    try:
        while time.monotonic() < until or said < 3:
            await control.execute(END_ALL)
            await take_all()
            answer = await fleet.client.get(f"{BATCHES}?limit=1")
            assert answer.status_code in {200, 503}, answer.text
            said += answer.status_code == 503
            await asyncio.sleep(0.1)
    finally:
        for connection in held:
            connection.terminate()


# --- room on the disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 256 MB, in memory."""
    place = Path("/tmp") / f"gristmill-small-{time.time_ns()}"
    place.mkdir(mode=0o711)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m,mode=0777", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        place.rmdir()
        pytest.skip("a file system of its own cannot be mounted here; a refusal by the server shows the same")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    place.rmdir()


def fill(disk: Path, *, but: int) -> Path:
    """Something else takes all the room that is left, but for so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - but))
    return ballast


async def create(client: httpx2.AsyncClient, items: int = 200) -> httpx2.Response:
    requests = [
        {"custom_id": f"req-{n}", "input": {"text": random.Random(n).randbytes(2000).hex()}}
        for n in range(items)
    ]
    return await client.post(BATCHES, json={"processor": "noop", "requests": requests})


async def until_refused(client: httpx2.AsyncClient) -> tuple[httpx2.Response, list[str]]:
    """Creates until one is not taken: the answer to that, and the ids of those before."""
    taken: list[str] = []
    async with asyncio.timeout(120):
        while (answer := await create(client)).status_code == 202:
            taken.append(answer.json()["data"]["id"])
    return answer, taken


async def until_taken(client: httpx2.AsyncClient) -> str:
    async with asyncio.timeout(120):
        while (answer := await create(client, 1)).status_code != 202:
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.2)
    batch_id: str = answer.json()["data"]["id"]
    return batch_id


async def until_completed(client: httpx2.AsyncClient, batch_id: str, total: int) -> None:
    async with asyncio.timeout(120):
        while True:
            answer = await client.get(f"{BATCHES}/{batch_id}?wait=5")
            if answer.status_code == 200 and answer.json()["data"]["status"] == "completed":
                assert answer.json()["data"]["completed_requests"] == total
                return


def assert_storage_full(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_full"), answer.text
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.long
async def test_a_full_disk_refuses_what_is_new_reads_go_on_and_all_resumes_by_itself(
    durable_postgres: EmbeddedPostgres, small_disk: Path, folder: Path
) -> None:
    """The tables' disk: the log of Postgres lies elsewhere."""
    tables = small_disk / "tables"
    tables.mkdir()
    durable_postgres._account.own(tables, 0o700)
    server = Server(durable_postgres.url, "")
    await server.run(f"CREATE TABLESPACE small LOCATION '{tables}'")
    await server.run("ALTER SYSTEM SET temp_tablespaces = ''", "CREATE DATABASE mill TABLESPACE small")
    url = server.url_of("mill")
    async with Fleet(url, folder, workers=1) as fleet:
        ballast = fill(small_disk, but=8 * MEGABYTE)
        refused, taken = await until_refused(fleet.client)
        assert_storage_full(refused)
        assert taken
        assert (await fleet.client.get(BATCHES)).status_code == 200
        ballast.unlink()
        for batch_id in taken:
            await until_completed(fleet.client, batch_id, 200)
        await until_completed(fleet.client, await until_taken(fleet.client), 1)
        print(f"{len(taken)} batches were taken before the disk was full, and completed after it")


@pytest.mark.long
async def test_a_full_disk_of_the_log_stops_postgres_and_loses_nothing(
    small_disk: Path, folder: Path
) -> None:
    """All of Postgres lies on it: without room for its log it stops, and cannot start until there is some."""
    settings = {**DURABLE, "min_wal_size": "32MB", "max_wal_size": "48MB"}
    with EmbeddedPostgres(small_disk / "postgres", settings) as postgres:
        url = await migrated(postgres)
        async with Fleet(url, folder, workers=1) as fleet:
            ballast = fill(small_disk, but=24 * MEGABYTE)
            taken: list[str] = []
            async with asyncio.timeout(300):
                while postgres.alive:
                    answer, more = await until_refused(fleet.client)
                    taken += more
                    assert answer.status_code == 503, answer.text
                    with suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
                        await Server(postgres.url, "").run("SELECT pg_switch_wal()")
            assert taken
            answer = await create(fleet.client)
            assert answer.status_code == 503, answer.text
            ballast.unlink()
            await asyncio.to_thread(postgres.revive)
            for batch_id in taken:
                await until_completed(fleet.client, batch_id, 200)
            await until_completed(fleet.client, await until_taken(fleet.client), 1)
            print(f"{len(taken)} batches were acknowledged before Postgres stopped, and completed after it")


REFUSE_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER no_room BEFORE INSERT ON item FOR EACH STATEMENT EXECUTE FUNCTION no_room();
CREATE TRIGGER no_room BEFORE INSERT ON result FOR EACH STATEMENT EXECUTE FUNCTION no_room();
"""
GIVE_ROOM = "DROP FUNCTION no_room CASCADE"


async def test_a_server_that_has_no_room_refuses_what_is_new_and_all_resumes_by_itself(
    own_database_url: str, folder: Path
) -> None:
    """As where nothing can be mounted: the server says what it says when its disk is full."""
    async with Fleet(own_database_url, folder, workers=1) as fleet:
        load = Load(fleet, None, folder, random.Random(8))
        told = await load.post([{"text": str(n), "seconds": 0.5} for n in range(40)])
        control = await asyncpg.connect(own_database_url)
        await control.execute(REFUSE_ROOM)
        refused = await create(fleet.client)
        assert_storage_full(refused)
        assert (await fleet.client.get(BATCHES)).status_code == 200
        assert await control.fetchval("SELECT count(*) FROM item") == 40
        await control.execute(GIVE_ROOM)
        await control.close()
        await load.watch(told)
        evidence = await gathered(load, own_database_url)
    assert findings(evidence) == []
