"""Each numbered behaviour of seed 001 (tagging jobs), by its number, against the whole service."""

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from command import Running
from dialects.tagging.conftest import KEY, LONG, TERMINAL, Client, Held, body, frame, frames
from fakes import issuer
from served import Served
from stranger import Stranger, until


def row(number: int, text: str = LONG) -> dict[str, Any]:
    return {"title": f"Document {number}", "description": f"{text} Number {number}."}


async def colleague(client: Client) -> Client:
    """Somebody else of the same tenant, with a token of the issuer."""
    named = "SELECT name FROM tenant WHERE id = $1"
    tenant = await client.stranger.service.database.pool.fetchval(named, client.stranger.tenant_id)
    token = issuer.token("HS256", tenant=tenant, sub="jane", scope="batches:read batches:write")
    return Client(Stranger(client.stranger.service, client.stranger.tenant_id, token))


async def test_1_start_answers_with_the_job_the_number_of_documents_and_a_message(
    mill: Served, client: Client
) -> None:
    (mill.folder / "harbour.txt").write_text(LONG * 3)
    documents = [
        {"title": "Harbour", "file_path": "harbour.txt", "file_source_type": "local", "unknown": {"a": 1}},
        row(2),
    ]
    started = await client.start(
        documents,
        model_name="openai/of-the-job",
        num_pages=2,
        num_tags=5,
        exclusion_words=["flood", " "],
        extra=1,
    )
    assert started["total_documents"] == 2
    assert started["message"] == "Started processing of 2 documents"
    uuid.UUID(started["job_id"])
    ended = await client.ended(started["job_id"])
    assert (ended["status"], ended["processed_count"], ended["failed_count"]) == ("completed", 2, 0)
    first, second = await client.documents(started["job_id"])
    assert (first["title"], first["file_path"], first["file_source_type"]) == (
        "Harbour",
        "harbour.txt",
        "local",
    )
    assert 1 <= len(first["tags"]) <= 5
    assert "flood" not in first["tags"] + second["tags"]
    assert {one.body["model"] for one in mill.llm.requests} == {"openai/of-the-job"}


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"documents": []}, "No documents provided"),
        ({"documents": None}, "No documents provided"),
        ({"config": {}}, "API key is required"),
        ({"config": {"api_key": ""}}, "API key is required"),
        ({"config": None}, "API key is required"),
        ({"config": {"api_key": KEY, "num_tags": 16}}, "/config/num_tags"),
        ({"config": {"api_key": KEY, "num_tags": 2}}, "/config/num_tags"),
        ({"config": {"api_key": KEY, "num_pages": 11}}, "/config/num_pages"),
        ({"config": {"api_key": "two words"}}, "/config"),
        ({"config": {"api_key": KEY, "exclusion_words": "harbour"}}, "/config/exclusion_words"),
        ({"column_mapping": ["a"]}, "/column_mapping"),
        ({"column_mapping": {"a": 5}}, "/column_mapping"),
        ({"job_id": "two words"}, "Invalid job ID"),
        ({"job_id": ""}, "Invalid job ID"),
        ({"job_id": 5}, "Invalid job ID"),
    ],
)
async def test_1_what_cannot_be_started_is_a_400_in_the_seeds_shape_and_starts_nothing(
    client: Client, change: dict[str, Any], detail: str
) -> None:
    answer = await client.send("POST", "/api/batch/start", json=body([row(1)]) | change)
    assert answer.status_code == 400, answer.text
    assert detail in answer.json()["detail"]
    assert KEY not in answer.text
    assert (await client.send("GET", "/api/history/jobs")).json()["total"] == 0


async def test_1_the_defaults_are_the_seeds(mill: Served, client: Client) -> None:
    started = await client.start([row(1)])
    await client.ended(started["job_id"])
    [call] = mill.llm.requests
    assert call.body["model"] == "openai/gpt-4o-mini"
    assert "Name 12 tags" in call.body["messages"][0]["content"]  # 8, and 4 to spare


async def test_2_a_jobs_own_id_makes_one_job_of_the_same_body_and_a_409_of_another(client: Client) -> None:
    job_id = f"job-{uuid.uuid4()}"
    first = await client.start([row(1)], job_id)
    assert first["job_id"] == job_id
    assert await client.start([row(1)], job_id) == first
    answer = await client.send("POST", "/api/batch/start", json=body([row(2)], job_id))
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert "job_id" in answer.json()["detail"]
    assert (await client.send("GET", "/api/history/jobs")).json()["total"] == 1


async def test_2_many_starts_of_one_job_at_once_make_one(client: Client, other: Client) -> None:
    job_id = f"job-{uuid.uuid4()}"
    answers = await asyncio.gather(
        *(client.send("POST", "/api/batch/start", json=body([row(1)], job_id)) for _ in range(6)),
        other.send("POST", "/api/batch/start", json=body([row(9), row(8)], job_id)),
    )
    assert [one.status_code for one in answers] == [200] * 7
    assert len({one.text for one in answers[:6]}) == 1
    assert answers[6].json()["total_documents"] == 2  # another tenant's ids are its own
    assert (await client.send("GET", "/api/history/jobs")).json()["total"] == 1


async def test_3_rows_of_any_table_are_read_by_the_mapping_of_their_columns(
    mill: Served, client: Client
) -> None:
    (mill.folder / "mapped.txt").write_text(LONG * 3)
    rows = [
        {"c0": "First", "c1": "mapped.txt", "c2": "local", "c3": "2026-11-25", "c4": "nobody wants this"},
        {"c0": "Second", "c5": LONG, "title": "not this one", "c4": 5},
    ]
    mapping = {
        "c0": "title", "c1": "file_path", "c2": "file_source_type", "c3": "publishing_date", "c4": "", "c5": "description",
    }  # fmt: skip
    answer = await client.send("POST", "/api/batch/start", json=body(rows) | {"column_mapping": mapping})
    job_id = answer.json()["job_id"]
    ended = await client.ended(job_id)
    assert (ended["processed_count"], ended["failed_count"]) == (2, 0)
    first, second = await client.documents(job_id)
    assert (first["title"], first["file_path"]) == ("First", "mapped.txt")
    assert (second["title"], second["file_path"]) == ("Second", "")
    prompts = json.dumps([one.body for one in mill.llm.requests])
    assert "nobody wants this" not in prompts
    assert "not this one" not in prompts


async def test_4_the_status_has_both_names_of_the_total_and_counts_successes_apart_from_progress(
    mill: Served, client: Client, held: Held
) -> None:
    held.word("stayer")
    started = await client.start([row(1), row(2, "short"), row(3, LONG + "stayer")])
    job_id = started["job_id"]

    async def two_ended() -> dict[str, Any] | None:
        found = await client.status(job_id)
        return found if found["results_count"] == 2 else None

    found = await until(two_ended)
    assert found == {
        "job_id": job_id,
        "status": "processing",
        "total_documents": 3,
        "total": 3,
        "processed_count": 1,
        "failed_count": 1,
        "results_count": 2,
        "processing_count": 1,
        "progress": pytest.approx(2 / 3),
    }
    held.word("stayer").set()
    ended = await client.ended(job_id)
    assert (ended["processed_count"], ended["failed_count"], ended["progress"]) == (2, 1, 1.0)


async def test_5_pause_lets_the_current_document_end_and_resume_goes_on_without_doing_it_again(
    mill: Served, client: Client, held: Held
) -> None:
    held.word("gatekeeper")
    documents = [row(n, LONG + "gatekeeper") for n in range(40)]
    job_id = (await client.start(documents))["job_id"]

    async def some_run() -> dict[str, Any] | None:
        found = await client.status(job_id)
        return found if found["processing_count"] else None

    await until(some_run)
    paused = await client.turn(job_id, "pause")
    assert (paused.status_code, paused.json()) == (200, {"message": "Job paused", "job_id": job_id})
    assert (await client.status(job_id))["status"] == "paused"
    resumed = await client.turn(job_id, "resume")
    assert (resumed.status_code, resumed.json()["message"]) == (200, "Job resumed")
    held.word("gatekeeper").set()
    ended = await client.ended(job_id)
    assert (ended["status"], ended["processed_count"]) == ("completed", 40)
    assert len(mill.llm.requests) == 40
    assert {one.headers["authorization"] for one in mill.llm.requests} == {f"Bearer {KEY}"}


async def test_5_cancel_tells_the_job_and_what_waits_never_runs(
    mill: Served, client: Client, held: Held
) -> None:
    held.word("canceller")
    job_id = (await client.start([row(n, LONG + "canceller") for n in range(200)]))["job_id"]

    async def some_run() -> dict[str, Any] | None:
        return (await client.status(job_id)) if mill.llm.requests else None

    await until(some_run)
    cancelled = await client.turn(job_id, "cancel")
    assert (cancelled.status_code, cancelled.json()) == (200, {"message": "Job cancelled", "job_id": job_id})
    held.word("canceller").set()
    ended = await client.until(job_id, *TERMINAL)
    assert ended["status"] == "cancelled"
    assert ended["results_count"] == 200
    assert len(mill.llm.requests) < 200


async def test_6_active_lists_what_runs_or_is_paused_of_the_caller_alone(
    client: Client, other: Client, held: Held
) -> None:
    held.word("evergreen")
    running = (await client.start([row(1, LONG + "evergreen")]))["job_id"]
    paused = (await client.start([row(2, LONG + "evergreen")]))["job_id"]
    await client.turn(paused, "pause")
    done = (await client.start([row(3)]))["job_id"]
    await client.ended(done)
    theirs = (await other.start([row(4, LONG + "evergreen")]))["job_id"]
    jobs = (await client.send("GET", "/api/batch/active")).json()["jobs"]
    assert [one["job_id"] for one in jobs] == [paused, running]
    assert {"job_id", "status", "progress", "processed_count", "failed_count", "total"} <= set(jobs[0])
    assert jobs[0]["status"] == "paused"
    assert [one["job_id"] for one in (await other.send("GET", "/api/batch/active")).json()["jobs"]] == [
        theirs
    ]
    jane = await colleague(client)
    assert (await jane.send("GET", "/api/batch/active")).json() == {"jobs": []}
    assert (await jane.send("GET", "/api/history/jobs")).json()["total"] == 0


async def test_7_errors_are_those_of_the_seeds_table(client: Client, other: Client) -> None:
    job_id = (await client.start([row(1)]))["job_id"]
    await client.ended(job_id)
    for action in ("pause", "resume", "cancel"):
        conflict = await client.turn(job_id, action)
        assert (conflict.status_code, conflict.headers["x-should-retry"]) == (409, "false")
        assert "completed" in conflict.json()["detail"]
        assert (await other.turn(job_id, action)).status_code == 404
        assert (await client.turn(str(uuid.uuid4()), action)).json() == {"detail": "Job does not exist"}
        assert (await client.turn("no%20id", action)).status_code == 400
    assert (await other.send("GET", f"/api/batch/jobs/{job_id}/status")).status_code == 404
    bare = await client.stranger.service.client.get(f"/api/batch/jobs/{job_id}/status")
    assert bare.status_code == 401
    assert list(bare.json()) == ["detail"]


async def test_8_a_paused_job_can_be_cancelled_and_its_way_has_only_words_of_the_seed(
    client: Client, held: Held
) -> None:
    held.word("wanderer")
    job_id = (await client.start([row(n, LONG + "wanderer") for n in range(3)]))["job_id"]
    await client.until(job_id, "processing")
    await client.turn(job_id, "pause")
    assert (await client.status(job_id))["status"] == "paused"
    assert (await client.turn(job_id, "cancel")).status_code == 200
    held.word("wanderer").set()
    assert (await client.ended(job_id))["status"] == "cancelled"


async def test_9_a_pause_during_the_last_document_does_not_keep_the_job_from_completing(
    client: Client, held: Held
) -> None:
    held.word("lastborn")
    job_id = (await client.start([row(1, LONG + "lastborn")]))["job_id"]

    async def runs() -> dict[str, Any] | None:
        found = await client.status(job_id)
        return found if found["processing_count"] == 1 else None

    await until(runs)
    assert (await client.turn(job_id, "resume")).status_code == 409
    assert (await client.turn(job_id, "pause")).status_code == 200
    assert (await client.turn(job_id, "pause")).status_code == 409
    assert (await client.status(job_id)) | {"progress": 0} == {
        "job_id": job_id, "status": "paused", "total_documents": 1, "total": 1, "processed_count": 0,
        "failed_count": 0, "results_count": 0, "processing_count": 1, "progress": 0,
    }  # fmt: skip
    held.word("lastborn").set()
    assert (await client.ended(job_id))["status"] == "completed"


async def test_9_a_job_paused_through_the_canonical_api_is_paused_here(client: Client, held: Held) -> None:
    held.word("canonist")
    job_id = (await client.start([row(1, LONG + "canonist"), row(2, LONG + "canonist")]))["job_id"]
    await client.until(job_id, "processing")
    [batch] = await client.stranger.data("/api/v1/batches")
    await client.stranger.act(batch["id"], "pause")
    assert (await client.status(job_id))["status"] == "paused"
    await client.stranger.act(batch["id"], "resume")
    held.word("canonist").set()
    assert (await client.ended(job_id))["status"] == "completed"


@pytest.mark.parametrize("by_query", [True, False], ids=["?token=", "Bearer"])
async def test_10_a_listener_catches_up_and_hears_each_document_twice_and_then_the_end(
    mill: Served, client: Client, held: Held, by_query: bool
) -> None:
    held.word("latecomer")
    documents = [row(1), row(2, "short"), row(3, LONG + "latecomer")]
    job_id = (await client.start(documents))["job_id"]

    async def two_ended() -> dict[str, Any] | None:
        found = await client.status(job_id)
        return found if (found["results_count"], found["processing_count"]) == (2, 1) else None

    await until(two_ended)
    async with client.listening(mill, job_id, by_query=by_query) as ws:
        first = await frame(ws)
        assert (first["type"], first["state"]["job_id"]) == ("catchup", job_id)
        assert sorted(one["row_id"] for one in first["results"]) == [0, 1]
        good = next(one for one in first["results"] if one["row_id"] == 0)
        assert (good["status"], good["success"], good["error"], good["title"]) == (
            "success",
            True,
            None,
            "Document 1",
        )
        assert good["tags"]
        bad = next(one for one in first["results"] if one["row_id"] == 1)
        assert (bad["status"], bad["success"], bad["tags"]) == ("failed", False, [])
        assert "too little text" in bad["error"]
        begun = await frame(ws)
        assert (begun["row_id"], begun["row_number"], begun["status"]) == (2, 3, "processing")
        held.word("latecomer").set()
        ended, last = await frames(ws)
        assert {
            "job_id",
            "row_id",
            "row_number",
            "title",
            "status",
            "progress",
            "tags",
            "error",
            "model_name",
            "metadata",
        } <= set(ended)
        assert (ended["row_id"], ended["status"], ended["progress"]) == (2, "success", 1.0)
        assert (last["type"], last["processed_count"], last["failed_count"]) == ("completed", 2, 1)
        assert last["processing_time"] > 0
        assert last["message"] == "Completed: 2 succeeded, 1 failed"
        assert ws.close_code == 1000
    assert client.stranger.key not in mill.log.read_text()


async def test_10_each_row_is_told_as_processing_before_it_is_told_as_ended(
    mill: Served, client: Client, held: Held
) -> None:
    held.word("opener")
    job_id = (await client.start([row(n, LONG + "opener") for n in range(30)]))["job_id"]

    async def some_run() -> dict[str, Any] | None:
        found = await client.status(job_id)
        return found if found["processing_count"] else None

    await until(some_run)
    async with client.listening(mill, job_id) as ws:
        assert (await frame(ws))["type"] == "catchup"
        first = await frame(ws)
        assert first["status"] == "processing"
        held.word("opener").set()
        told = [first, *await frames(ws)]
    rows = [(one["row_id"], one["status"]) for one in told if "row_id" in one]
    for number in range(30):
        assert [status for row_id, status in rows if row_id == number] == ["processing", "success"]
    assert told[-1]["type"] == "completed"


async def test_10_an_ended_job_is_caught_up_with_told_as_ended_and_closed(
    mill: Served, client: Client
) -> None:
    job_id = (await client.start([row(1), row(2)]))["job_id"]
    await client.ended(job_id)
    async with client.listening(mill, job_id) as ws:
        first, last = await frames(ws)
    assert (first["type"], len(first["results"]), first["state"]["status"]) == ("catchup", 2, "completed")
    assert (last["type"], last["total_documents"]) == ("completed", 2)


async def test_10_who_leaves_cancels_nothing(mill: Served, client: Client, held: Held) -> None:
    held.word("leaver")
    job_id = (await client.start([row(1, LONG + "leaver")]))["job_id"]
    async with client.listening(mill, job_id) as ws:
        await frame(ws)
        await ws.send_str("whatever")
    held.word("leaver").set()
    assert (await client.ended(job_id))["status"] == "completed"


async def test_10_a_cancelled_job_is_told_as_cancelled(mill: Served, client: Client, held: Held) -> None:
    held.word("quitter")
    job_id = (await client.start([row(n, LONG + "quitter") for n in range(100)]))["job_id"]
    async with client.listening(mill, job_id) as ws:
        await frame(ws)
        await client.turn(job_id, "cancel")
        held.word("quitter").set()
        told = await frames(ws)
    assert told[-1]["type"] == "cancelled"
    assert told[-1]["processed_count"] + told[-1]["failed_count"] == 100
    assert {one["row_id"] for one in told if one.get("status") in ("success", "failed")} == set(range(100))


@pytest.mark.parametrize("key", ["", "gm_no-such-key", "eyJ.eyJ.x"])
async def test_10_who_is_not_known_is_closed_with_1008(mill: Served, client: Client, key: str) -> None:
    job_id = (await client.start([row(1)]))["job_id"]
    for by_query in (True, False):
        async with client.listening(mill, job_id, by_query=by_query, key=key) as ws:
            [told] = await frames(ws)
        assert (told["type"], ws.close_code) == ("error", 1008)


async def test_10_another_tenants_job_is_no_job(mill: Served, client: Client, other: Client) -> None:
    job_id = (await client.start([row(1)]))["job_id"]
    async with other.listening(mill, job_id) as ws:
        [told] = await frames(ws)
    assert (told["message"], ws.close_code) == ("Job does not exist", 1008)


async def test_10_a_token_of_the_issuer_opens_every_door(mill: Served, client: Client) -> None:
    jane = await colleague(client)
    token = jane.stranger.key
    job_id = (await jane.start([row(1)]))["job_id"]
    assert (await jane.ended(job_id))["status"] == "completed"
    assert (await jane.send("GET", "/api/history/jobs")).json()["total"] == 1
    for by_query in (True, False):
        async with jane.listening(mill, job_id, by_query=by_query) as ws:
            assert [one["type"] for one in await frames(ws)] == ["catchup", "completed"]
    assert token not in mill.log.read_text()


async def test_11_one_documents_failure_never_stops_the_job(mill: Served, client: Client) -> None:
    documents: list[Any] = [
        row(1),
        row(2, "x"),
        {"title": "nowhere", "file_path": "missing.txt", "file_source_type": "local"},
        {"title": "no such kind", "file_path": "a.txt", "file_source_type": "ftp"},
        {"title": "inside", "file_path": "http://", "file_source_type": "url"},
        {},
        "not a document",
        row(8),
    ]
    ended = await client.ended((await client.start(documents))["job_id"])
    assert (ended["status"], ended["processed_count"], ended["failed_count"]) == ("completed", 2, 6)


@pytest.mark.parametrize(
    ("text", "expected"), [("x", (0, 3)), (LONG, (3, 0))], ids=["all fail", "all succeed"]
)
async def test_11_a_job_whose_documents_all_end_alike_is_completed(
    client: Client, text: str, expected: tuple[int, int]
) -> None:
    ended = await client.ended((await client.start([row(n, text) for n in range(3)]))["job_id"])
    assert (ended["status"], ended["progress"]) == ("completed", 1.0)
    assert (ended["processed_count"], ended["failed_count"]) == expected


async def test_12_a_document_tells_what_it_came_to_and_what_kind_of_failure_it_was(
    mill: Served, client: Client
) -> None:
    mill.llm.gate = lambda _: None
    job_id = (await client.start([row(1), row(2, LONG + "[fault=status:401]"), row(3, "x")]))["job_id"]
    await client.ended(job_id)
    async with client.listening(mill, job_id) as ws:
        caught, _ = await frames(ws)
    good, model, short = sorted(caught["results"], key=lambda one: one["row_id"])
    assert set(good["metadata"]) >= {
        "is_scanned", "extraction_method", "ocr_confidence", "page_count", "text_length", "tokens_used",
    }  # fmt: skip
    assert (good["error_type"], good["retry_count"], good["retry_after_ms"]) == (None, 0, None)
    assert (model["success"], model["error_type"]) == (False, "model-error")
    assert (short["success"], short["error_type"]) == (False, None)


async def test_13_paths_are_looked_at_before_a_job_within_the_same_walls(
    mill: Served, client: Client
) -> None:
    (mill.folder / "there.txt").write_text("here")
    paths = [
        {"path": "there.txt", "type": "local"},
        {"path": "missing.txt", "type": "local"},
        {"path": "../log", "type": "local"},
        {"path": f"{mill.url}/healthz", "type": "url"},
        {"path": f"{mill.url}/no/such", "type": "url"},
        {"path": "a/key.txt", "type": "s3"},
        {"path": "", "type": "url"},
        {"path": "x", "type": "ftp"},
    ]
    answer = await client.send("POST", "/api/batch/validate-paths", json={"paths": paths})
    found = answer.json()
    assert [one["valid"] for one in found["results"]] == [
        True,
        False,
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    assert [one["error"] is None for one in found["results"]] == [one["valid"] for one in found["results"]]
    assert (found["total"], found["valid_count"], found["invalid_count"]) == (8, 2, 6)
    many = await client.send("POST", "/api/batch/validate-paths", json={"paths": [{}] * 201})
    assert many.status_code == 400


async def test_13_the_template_can_be_started_as_it_is(client: Client) -> None:
    found = (await client.send("GET", "/api/batch/template")).json()
    header = found["template"].splitlines()[0].split(",")
    assert header == [one["name"] for one in found["columns"]]
    assert [one["name"] for one in found["columns"] if one["required"]] == ["title"]


async def test_13_the_history_lists_shows_and_deletes(client: Client, other: Client, held: Held) -> None:
    held.word("presence")
    done = (await client.start([row(1), row(2, "x")], num_tags=4))["job_id"]
    await client.ended(done)
    running = (await client.start([row(3, LONG + "presence")]))["job_id"]
    listed = (await client.send("GET", "/api/history/jobs?limit=1&offset=1")).json()
    assert (listed["total"], listed["limit"], listed["offset"]) == (2, 1, 1)
    assert (listed["jobs"][0]["id"], listed["jobs"][0]["status"]) == (done, "completed")
    by_status = (await client.send("GET", "/api/history/jobs?status=processing&unknown=1")).json()
    assert [one["id"] for one in by_status["jobs"]] == [running]
    assert (await client.send("GET", "/api/history/jobs?status=odd")).status_code == 400
    detail = (await client.send("GET", f"/api/history/jobs/{done}")).json()
    assert detail["config"] == {"model_name": "openai/gpt-4o-mini", "num_tags": 4}
    assert [one["status"] for one in detail["documents"]] == ["success", "failed"]
    assert detail["documents"][1]["error_message"]
    assert (await other.send("DELETE", f"/api/history/jobs/{done}")).status_code == 404
    assert (await client.send("DELETE", f"/api/history/jobs/{running}")).status_code == 409
    gone = await client.send("DELETE", f"/api/history/jobs/{done}")
    assert gone.json() == {"message": "Job deleted successfully", "job_id": done}
    assert (await client.send("GET", f"/api/history/jobs/{done}")).status_code == 404


async def test_14_the_key_of_a_job_is_never_shown_logged_or_kept_in_clear(
    mill: Served, client: Client
) -> None:
    job_id = (await client.start([row(1)], f"job-{uuid.uuid4()}"))["job_id"]
    await client.ended(job_id)
    for path in (
        f"/api/batch/jobs/{job_id}/status",
        "/api/history/jobs",
        f"/api/history/jobs/{job_id}",
        "/api/v1/batches",
    ):
        assert KEY not in (await client.send("GET", path)).text
    assert KEY not in mill.log.read_text()
    rows = await mill.database.pool.fetch("SELECT batch::text AS one FROM batch")
    assert all(KEY not in one["one"] for one in rows)
    assert await mill.database.pool.fetchval(
        "SELECT upstream_key FROM batch WHERE dialect_key = $1", job_id
    ) is None  # fmt: skip


async def test_15_a_job_survives_the_death_of_its_server_and_a_listener_is_sent_away_when_it_stops(
    mill: Served, client: Client, held: Held, own_database_url: str, tmp_path: Path
) -> None:
    command = replace(
        mill.command,
        environment=mill.command.environment | {
            "GRISTMILL_DATABASE_URL": own_database_url, "GRISTMILL_DATA_DIR": str(tmp_path), "GRISTMILL_LEASE_SECONDS": "3",
        },
    )  # fmt: skip
    key = mill.command.environment["GRISTMILL_API_KEY"]

    @asynccontextmanager
    async def at(running: Running) -> AsyncIterator[Client]:
        async with httpx2.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as http:
            service = replace(mill, running=running, client=http)
            yield Client(Stranger(service, client.stranger.tenant_id, key))  # type: ignore[arg-type]

    held.word("survivor")
    with command.serve() as running:
        async with at(running) as script:
            job_id = (await script.start([row(n, LONG + "survivor") for n in range(5)]))["job_id"]
            await script.until(job_id, "processing")
            running.process.kill()
            await asyncio.to_thread(running.process.wait)
    with command.serve() as running:
        async with at(running) as script:
            assert (await script.status(job_id))["total"] == 5
            async with script.listening(replace(mill, running=running), job_id) as ws:
                assert (await frame(ws))["type"] == "catchup"
                running.process.send_signal(signal.SIGTERM)
                await frames(ws)
                assert ws.close_code == 1012
            held.word("survivor").set()
            assert await asyncio.to_thread(running.process.wait, 60) == 0
    with command.serve() as running:
        async with at(running) as script:
            ended = await script.ended(job_id)
            assert (ended["status"], ended["processed_count"]) == ("completed", 5)


async def test_a_job_of_more_than_a_thousand_documents_is_taken_whole(mill: Served, client: Client) -> None:
    started = await client.start([row(n, "x") for n in range(1200)])
    assert started["total_documents"] == 1200
    async with client.listening(mill, started["job_id"]) as ws:
        told = await frames(ws)
    assert told[0]["type"] == "catchup"
    heard = [one["row_id"] for one in told[0]["results"]]
    heard += [one["row_id"] for one in told if one.get("status") == "failed"]
    assert sorted(heard) == list(range(1200))
    assert (told[-1]["type"], told[-1]["failed_count"]) == ("completed", 1200)
