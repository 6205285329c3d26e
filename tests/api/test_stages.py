"""How far an item of several stages has come, wherever results are shown."""

import orjson
import pytest

import factories
from gristmill.db import Database
from gristmill.domain.checkpoints import Checkpoint
from gristmill.store import checkpoints
from service import Caller

BATCHES = "/api/v1/batches"
CONFIG = {"sink": {"url": "https://example.com/chunks"}}
STAGES = [
    ("success", "COMPLETED", 4, 4),
    ("failed", "FORWARD_FAILED", 3, 4),
    ("failed", "PROCESS_FAILED", None, None),
    ("processing", "FORWARDING", 2, 4),
    ("processing", "PROCESSING", None, None),
    ("pending", "WAIT_FOR_FORWARDING", 1, 4),
    ("pending", "WAIT_FOR_PROCESSING", None, None),
]


async def in_every_stage(caller: Caller, database: Database) -> str:
    requests = [{"custom_id": f"req-{n}", "input": {"text": "x"}} for n in range(7)]
    batch = await caller.batch(requests, processor="pipeline", config=CONFIG)
    worker = await factories.make_worker(database, processors=["pipeline"])
    [lease] = await factories.claim(database, worker, {"pipeline": 6})
    async with database.transaction() as tx:
        for ordinal, done in {0: 4, 1: 3, 3: 2, 5: 1}.items():
            kept = Checkpoint("FORWARDING", "[]", done, 4)
            assert await checkpoints.save(tx, lease.id, lease.batch_id, ordinal, kept)
    ended = [
        factories.success(lease, 0, checkpointed=True),
        factories.failure(lease, 1),
        factories.failure(lease, 2),
    ]
    back = [factories.retry(lease, 5, 60.0)]
    await factories.record(database, worker, factories.Flush({lease.id: 2}, ended, back))
    return str(batch["id"])


async def test_each_item_shows_its_stage_and_its_chunks(caller: Caller, database: Database) -> None:
    batch_id = await in_every_stage(caller, database)
    shown = await caller.data(f"{BATCHES}/{batch_id}/results")
    assert [
        (one["status"], one["stage"], one["processed_chunks"], one["total_chunks"]) for one in shown
    ] == STAGES


@pytest.mark.parametrize(
    ("query", "positions"),
    [("?limit=2&offset=3", [3, 4]), ("?status=failed", [1, 2]), ("?custom_id=req-5", [5])],
)
async def test_every_page_shows_them(
    caller: Caller, database: Database, query: str, positions: list[int]
) -> None:
    batch_id = await in_every_stage(caller, database)
    shown = await caller.data(f"{BATCHES}/{batch_id}/results{query}")
    assert [one["stage"] for one in shown] == [STAGES[position][1] for position in positions]


async def test_one_result_and_the_stream_show_them(caller: Caller, database: Database) -> None:
    batch_id = await in_every_stage(caller, database)
    one = await caller.data(f"{BATCHES}/{batch_id}/results/req-3")
    assert (one["stage"], one["processed_chunks"], one["total_chunks"]) == ("FORWARDING", 2, 4)
    stream = await caller.get(f"{BATCHES}/{batch_id}/results", headers={"accept": "application/x-ndjson"})
    assert [orjson.loads(line)["stage"] for line in stream.text.splitlines()] == [
        stage for _, stage, _, _ in STAGES
    ]


async def test_an_item_without_stages_shows_none(caller: Caller) -> None:
    batch = await caller.batch(1)
    [shown] = await caller.data(f"{BATCHES}/{batch['id']}/results")
    assert not {"stage", "processed_chunks", "total_chunks"} & shown.keys()


async def test_checkpoints_are_looked_up_only_for_processors_that_have_them(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in the table: other batches do not pay for it."""
    batch = await caller.batch(1)
    await factories.sql(
        database, "INSERT INTO item_checkpoint (batch_id, ordinal, stage) VALUES ($1, 0, 'a')", batch["id"]
    )
    [shown] = await caller.data(f"{BATCHES}/{batch['id']}/results")
    assert "stage" not in shown


async def test_the_document_describes_staged_results_exactly(caller: Caller, database: Database) -> None:
    batch_id = await in_every_stage(caller, database)
    models = (await caller.service.client.get("/openapi.json")).json()["components"]["schemas"]
    [shown] = await caller.data(f"{BATCHES}/{batch_id}/results?limit=1")
    assert models["StagedResult"]["properties"].keys() == shown.keys()
    detail = await caller.data(f"{BATCHES}/{batch_id}/results/req-0")
    assert models["StagedResultDetail"]["properties"].keys() == detail.keys()


async def test_tasks_show_them_beside_those_of_processors_without_stages(
    caller: Caller, database: Database
) -> None:
    batch_id = await in_every_stage(caller, database)
    await caller.batch(1)
    other, *staged = await caller.data("/api/v1/tasks?page_size=8")
    assert "stage" not in other
    assert [
        (one["status"], one["stage"], one["processed_chunks"], one["total_chunks"]) for one in staged
    ] == STAGES
    one = await caller.data(f"/api/v1/tasks/{batch_id}-3")
    assert (one["stage"], one["processed_chunks"], one["total_chunks"]) == ("FORWARDING", 2, 4)
