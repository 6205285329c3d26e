"""Seed 002, behaviour by behaviour, as numbered in its description. No worker runs: the tests take its steps by hand."""

from typing import Any
from uuid import UUID, uuid4

import pytest

import factories
from gristmill.dialects.llamacloud import making, pages
from gristmill.store.recording import Flush
from service import Caller, Service, new_key

BATCHES = "/api/v2/batches"
DIRECTORIES = "/api/v1/beta/directories"
CONFIGURATIONS = "/api/v1/beta/configurations"
STATES = {"PENDING", "THROTTLED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}


async def directory_of(caller: Caller, files: int = 2) -> str:
    ids = [await caller.upload(f"note {n}".encode(), f"note-{n}.txt") for n in range(files)]
    return f"dir-{await caller.directory(*ids)}"


def body_of(
    directory_id: str, configuration_id: str = "cfg-PARSE_FAST", kind: str = "parse_v2"
) -> dict[str, Any]:
    job = {"configuration_id": configuration_id, "type": kind}
    return {"config": {"job": job}, "source_directory_id": directory_id}


async def start(caller: Caller, files: int = 2, **more: Any) -> dict[str, Any]:
    made = await caller.post(BATCHES, body_of(await directory_of(caller, files)) | more)
    assert made.status_code == 200, made.text
    batch: dict[str, Any] = made.json()
    return batch


async def get(caller: Caller, batch_id: str, query: str = "") -> dict[str, Any]:
    found = await caller.get(f"{BATCHES}/{batch_id}{query}")
    assert found.status_code == 200, found.text
    batch: dict[str, Any] = found.json()
    assert batch["status"] in STATES
    return batch


async def listed(caller: Caller, query: str) -> list[str]:
    found = await caller.get(f"{BATCHES}?{query}")
    assert found.status_code == 200, found.text
    return [one["id"] for one in found.json()["items"]]


async def refused(caller: Caller, path: str, body: dict[str, Any], status: int = 400) -> dict[str, str]:
    """Pointer → code."""
    answer = await caller.post(path, body)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert isinstance(told["detail"], str)
    assert told["detail"]
    return {one["pointer"]: one["code"] for one in told["errors"]}


def canonical(batch: dict[str, Any]) -> UUID:
    return UUID(batch["id"].removeprefix("bat-"))


# --- 1 --------------------------------------------------------------------------------------------------------


async def test_1_a_create_needs_its_three_fields_and_passes_over_what_it_does_not_know(
    caller: Caller,
) -> None:
    directory_id = await directory_of(caller)
    assert await refused(caller, BATCHES, {}) == {"/config": "missing", "/source_directory_id": "missing"}
    found = await refused(
        caller, BATCHES, {"config": {"job": {"type": "classify_v2"}}, "source_directory_id": "x"}
    )
    assert found == {"/config/job/configuration_id": "missing", "/config/job/type": "literal_error"}
    query = "?project_id=prj-of-somebody&organization_id=x&unheard_of=1"
    made = await caller.post(BATCHES + query, body_of(directory_id) | {"unheard_of": {"a": [1]}})
    assert made.status_code == 200


async def test_1_a_bearer_is_let_in_and_a_cookie_is_not(service: Service, caller: Caller) -> None:
    bearer = {"Authorization": f"Bearer {caller.key}"}
    assert (await service.client.get(BATCHES, headers=bearer)).status_code == 200
    cookie = await service.client.get(BATCHES, headers={"Cookie": f"session={caller.key}"})
    assert cookie.status_code == 401
    assert cookie.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("batches:write", "POST", BATCHES),
        ("batches:read", "GET", BATCHES),
        ("files:write", "POST", DIRECTORIES),
        ("files:read", "GET", "/api/v1/beta/files"),
        ("configurations:write", "POST", CONFIGURATIONS),
        ("configurations:read", "GET", "/api/v1/beta/webhook-configs"),
    ],
)
async def test_1_each_route_asks_for_the_scope_of_its_canonical_one(
    service: Service, caller: Caller, scope: str, method: str, path: str
) -> None:
    others = [
        "batches:read",
        "batches:write",
        "files:read",
        "files:write",
        "configurations:read",
        "configurations:write",
    ]
    others.remove(scope)
    holder = await new_key(service, caller.tenant_id, [scope])
    stranger = await new_key(service, caller.tenant_id, others)
    assert (await stranger.send(method, path, json={})).status_code == 403
    assert (await holder.send(method, path, json={})).status_code in (200, 400)


# --- 2 --------------------------------------------------------------------------------------------------------


async def test_2_the_reply_has_the_fields_of_a_batch_and_what_it_runs_with_is_a_copy(
    service: Service, caller: Caller
) -> None:
    parameters = {"product_type": "parse_v2", "tier": "fast", "version": "latest"}
    made = (await caller.post(CONFIGURATIONS, {"name": "c", "parameters": parameters})).json()
    directory_id = await directory_of(caller)
    body = body_of(directory_id, made["id"])
    batch = (await caller.post(BATCHES, body)).json()
    assert batch.keys() == {
        "id", "project_id", "source_directory_id", "config", "status", "created_at", "updated_at", "results",
    }  # fmt: skip
    assert (batch["config"], batch["source_directory_id"]) == (body["config"], directory_id)
    assert batch["project_id"] == f"prj-{caller.tenant_id}"
    assert batch["id"].startswith("bat-")
    assert batch["created_at"].endswith("Z")
    assert len(batch["created_at"]) == len("2019-12-27T18:11:19.117Z")

    changed = {"parameters": parameters | {"tier": "agentic", "page_ranges": {"target_pages": "2-3"}}}
    answer = await caller.send("PUT", f"{CONFIGURATIONS}/{made['id']}", json=changed)
    assert answer.json()["parameters"]["page_ranges"] == {"target_pages": "2-3"}
    [config] = await factories.sql(
        service.database, "SELECT config FROM batch WHERE id = $1", canonical(batch)
    )
    assert config == '{"mode":"fast"}'
    assert (await caller.send("DELETE", f"{CONFIGURATIONS}/{made['id']}")).status_code == 204
    assert (await get(caller, batch["id"]))["config"] == body["config"]


# --- 3 and 7 --------------------------------------------------------------------------------------------------


async def test_3_a_batch_goes_through_their_states_and_no_other(service: Service, caller: Caller) -> None:
    batch = await start(caller, 2)
    database = service.database
    worker_id = await factories.make_worker(database, processors=["parse"])
    assert (await get(caller, batch["id"]))["status"] == "PENDING"
    assert await listed(caller, "status=PENDING") == [batch["id"]]

    [lease] = await factories.claim(database, worker_id, {"parse": 1})
    assert (await get(caller, batch["id"]))["status"] == "RUNNING"
    assert await listed(caller, "status=RUNNING") == [batch["id"]]
    assert await listed(caller, "status=PENDING") == []
    await factories.record(database, worker_id, Flush({lease.id: 0}, [factories.failure(lease, 0)]))
    assert (await get(caller, batch["id"]))["status"] == "RUNNING"

    await factories.drain(database, worker_id, {"parse": 5})
    ended = await get(caller, batch["id"])
    assert (ended["status"], ended["results"]) == ("COMPLETED", None)  # in spite of the file that failed
    assert ended["updated_at"] > ended["created_at"]


async def test_3_failed_is_a_batch_that_its_deadline_has_ended(service: Service, caller: Caller) -> None:
    batch = await start(caller, 2)
    await factories.expire(service.database, canonical(batch))
    assert (await get(caller, batch["id"]))["status"] == "RUNNING"
    await factories.sweep(service.database)
    assert (await get(caller, batch["id"]))["status"] == "FAILED"
    assert await listed(caller, "status=FAILED") == [batch["id"]]


async def test_3_a_state_that_is_no_state_of_theirs_is_refused_as_a_filter(caller: Caller) -> None:
    for word in ("in_progress", "paused", "QUEUED", ""):
        assert (await caller.get(f"{BATCHES}?status={word}")).status_code == 400


async def test_7_throttled_is_what_waits_for_a_limit_alone(service: Service, caller: Caller) -> None:
    batch = await start(caller, 2)
    database = service.database
    worker_id = await factories.make_worker(database, processors=["parse"])
    [first], [second] = [await factories.claim(database, worker_id, {"parse": 1}) for _ in range(2)]
    waits = factories.retry(first, 0, 60.0, waiting=True)
    await factories.record(database, worker_id, Flush({first.id: 0}, [], [waits]))
    assert (await get(caller, batch["id"]))["status"] == "RUNNING"  # the other one runs
    again = factories.retry(second, 1, 60.0)
    await factories.record(database, worker_id, Flush({second.id: 0}, [], [again]))
    assert (await get(caller, batch["id"]))["status"] == "THROTTLED"
    assert await listed(caller, "status=THROTTLED") == [batch["id"]]
    assert await listed(caller, "status=RUNNING") == []
    await factories.sql(database, "UPDATE span SET available_at = now()")
    assert (await get(caller, batch["id"]))["status"] == "RUNNING"  # never again PENDING
    await caller.post(f"/api/v1/batches/{canonical(batch)}/pause")
    assert (await get(caller, batch["id"]))["status"] == "RUNNING"


# --- 4 --------------------------------------------------------------------------------------------------------


async def test_4_results_are_null_until_asked_for_after_the_end_and_tell_of_jobs_and_not_of_their_failures(
    service: Service, caller: Caller
) -> None:
    batch = await start(caller, 3)
    assert batch["results"] is None
    database = service.database
    worker_id = await factories.make_worker(database, processors=["parse"])
    assert (await get(caller, batch["id"], "?expand=results"))["results"] is None
    [lease] = await factories.claim(database, worker_id, {"parse": 3})
    ended = [factories.success(lease, 0), factories.failure(lease, 1), factories.success(lease, 2)]
    assert (await get(caller, batch["id"], "?expand=results"))["results"] is None
    await factories.record(database, worker_id, Flush({lease.id: 0}, ended), alone=True)

    assert (await get(caller, batch["id"]))["results"] is None
    results = (await get(caller, batch["id"], "?expand=other&expand=results"))["results"]
    assert [one["error_message"] for one in results] == [None] * 3
    assert {one["job_reference"]["type"] for one in results} == {"parse_v2"}
    entries = (await caller.get(f"{DIRECTORIES}/{batch['source_directory_id']}/files")).json()["items"]
    assert {one["source_directory_file_id"] for one in results} == {one["id"] for one in entries}
    failed = await caller.get(f"/api/v2/parse/{results[1]['job_reference']['id']}?expand=text")
    assert failed.json()["job"]["status"] == "FAILED"
    assert failed.json()["job"]["error_message"] == "as asked"
    assert failed.json()["text"] is None


async def test_4_a_file_whose_turn_never_came_has_a_message_and_no_job(
    service: Service, caller: Caller
) -> None:
    batch = await start(caller, 2)
    worker_id = await factories.make_worker(service.database, processors=["parse"])
    [lease] = await factories.claim(service.database, worker_id, {"parse": 1})
    assert (await caller.post(f"{BATCHES}/{batch['id']}/cancel")).json()["status"] == "RUNNING"
    again = await caller.post(f"{BATCHES}/{batch['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "RUNNING")
    await factories.record(service.database, worker_id, factories.all_of([lease]))
    await factories.sweep(service.database)
    ended = await get(caller, batch["id"], "?expand=results")
    assert ended["status"] == "CANCELLED"
    done, never = ended["results"]
    assert (done["error_message"], done["job_reference"]["type"]) == (None, "parse_v2")
    assert never["job_reference"] is None
    assert "cancelled" in never["error_message"]
    late = await caller.post(f"{BATCHES}/{batch['id']}/cancel")
    assert (late.status_code, late.headers["x-should-retry"]) == (409, "false")
    assert "CANCELLED" in late.json()["detail"]


# --- 5 --------------------------------------------------------------------------------------------------------


async def test_5_the_configuration_must_exist_and_be_of_the_jobs_type(caller: Caller, other: Caller) -> None:
    directory_id = await directory_of(caller)
    at = "/config/job/configuration_id"
    for unknown in (f"cfg-{uuid4()}", "cfg-PARSE_NOTHING", "x", "", "cfg-" + "x" * 100):
        assert list(await refused(caller, BATCHES, body_of(directory_id, unknown))) == [at]
    foreign = await other.configuration("parse", mode="fast")
    assert await refused(caller, BATCHES, body_of(directory_id, foreign)) == {at: "unknown_configuration"}
    for one, kind in (("cfg-PARSE_FAST", "extract_v2"), ("cfg-EXTRACT_DEFAULT", "parse_v2")):
        assert await refused(caller, BATCHES, body_of(directory_id, one, kind)) == {
            "/config/job/type": "other_processor"
        }
    for preset, kind in (("cfg-PARSE_AGENTIC", "parse_v2"), ("cfg-EXTRACT_DEFAULT", "extract_v2")):
        made = await caller.post(BATCHES, body_of(directory_id, preset, kind))
        assert made.json()["config"]["job"] == {"configuration_id": preset, "type": kind}
    assert len(await listed(caller, "")) == 2


async def test_5_a_configuration_made_through_the_other_api_serves_as_well(caller: Caller) -> None:
    its_id = await caller.configuration("extract", schema=SCHEMA, max_pages=2)
    shown = (await caller.get(f"{CONFIGURATIONS}/{its_id}")).json()
    assert shown["product_type"] == shown["parameters"]["product_type"] == "extract_v2"
    assert (shown["parameters"]["data_schema"], shown["parameters"]["max_pages"]) == (SCHEMA, 2)
    made = await caller.post(BATCHES, body_of(await directory_of(caller), its_id, "extract_v2"))
    assert made.status_code == 200
    hidden = await caller.configuration("completion", path="/embeddings")
    assert (await caller.get(f"{CONFIGURATIONS}/{hidden}")).status_code == 404
    assert [one["id"] for one in (await caller.get(CONFIGURATIONS)).json()["items"]] == [its_id]


# --- 6 --------------------------------------------------------------------------------------------------------


async def test_6_the_directory_must_be_there_with_1_to_1000_files(
    caller: Caller, other: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for unknown in (f"dir-{uuid4()}", await directory_of(other), "dir-x", str(uuid4())):
        assert await refused(caller, BATCHES, body_of(unknown), 404) == {}
    empty = await directory_of(caller, 0)
    assert await refused(caller, BATCHES, body_of(empty)) == {"/source_directory_id": "empty_directory"}
    assert await listed(caller, "") == []


async def test_6_nothing_makes_no_batch_and_an_empty_file_no_file(caller: Caller) -> None:
    directory_id = await directory_of(caller, 0)
    up = await caller.post(
        f"{DIRECTORIES}/{directory_id}/files/upload", files={"upload_file": ("a.txt", b"")}
    )
    assert (up.status_code, up.headers.get("x-should-retry")) == (400, None)
    assert await refused(caller, BATCHES, body_of(directory_id)) == {
        "/source_directory_id": "empty_directory"
    }
    for body in (b"", b"{}", b"[]"):
        made = await caller.post(BATCHES, content=body, headers={"Content-Type": "application/json"})
        assert made.status_code == 400, made.text
    for path in (BATCHES, "/api/v1/beta/files", f"{DIRECTORIES}/{directory_id}/files"):
        assert (await caller.get(path)).json() == {"items": [], "next_page_token": None}


async def test_6_a_directory_of_1001_files_is_too_many_and_one_of_1000_is_not(
    service: Service, caller: Caller
) -> None:
    file_id = await caller.upload(b"a note", "note.txt")
    directory_id = await caller.directory(file_id)
    many = """
        WITH made AS (
            INSERT INTO file (id, tenant_id, filename, media_type, bytes, sha256)
            SELECT gen_random_uuid(), tenant_id, filename || n, media_type, bytes, sha256
            FROM file, generate_series(1, 1000) AS n WHERE id = $1 RETURNING id, filename
        ) INSERT INTO directory_file (directory_id, file_id, name) SELECT $2, id, filename FROM made
    """
    await factories.sql(service.database, many, UUID(file_id), UUID(directory_id))
    body = body_of(f"dir-{directory_id}")
    assert await refused(caller, BATCHES, body) == {"/source_directory_id": "too_many_files"}
    await caller.send("DELETE", f"{DIRECTORIES}/dir-{directory_id}/files/dfl-{file_id}")
    made = await caller.post(BATCHES, body)
    assert made.status_code == 200
    assert (await factories.get(service.database, canonical(made.json()), caller.tenant_id)).total == 1000


async def test_6_files_that_come_in_while_a_batch_is_made_do_not_carry_it_over_the_limit(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory_id = await directory_of(caller, 2)
    monkeypatch.setattr(making, "MAX_FILES", 1)
    assert await refused(caller, BATCHES, body_of(directory_id)) == {"/source_directory_id": "too_many_files"}
    assert await listed(caller, "") == []


async def test_6_the_set_of_files_is_that_of_the_creation(service: Service, caller: Caller) -> None:
    batch = await start(caller, 2)
    directory_id = batch["source_directory_id"]
    late = {"upload_file": ("late.txt", b"too late")}
    assert (await caller.post(f"{DIRECTORIES}/{directory_id}/files/upload", files=late)).status_code == 200
    worker_id = await factories.make_worker(service.database, processors=["parse"])
    await factories.drain(service.database, worker_id, {"parse": 5})
    assert len((await get(caller, batch["id"], "?expand=results"))["results"]) == 2
    assert (await caller.send("DELETE", f"{DIRECTORIES}/{directory_id}")).status_code == 204
    assert len((await get(caller, batch["id"], "?expand=results"))["results"]) == 2


# --- 8 --------------------------------------------------------------------------------------------------------


async def test_8_pages_of_a_list_end_with_a_null_token_and_keep_their_order(
    caller: Caller, other: Caller
) -> None:
    directory_id = await directory_of(caller)
    made = [(await caller.post(BATCHES, body_of(directory_id))).json()["id"] for _ in range(5)]
    await start(other)
    seen, token, pages = [], "", 0
    while token is not None:
        page = (await caller.get(f"{BATCHES}?page_size=2&page_token={token}")).json()
        seen += [one["id"] for one in page["items"]]
        token, pages = page["next_page_token"], pages + 1
    assert (seen, pages) == (made[::-1], 3)
    assert all(one["results"] is None for one in page["items"])
    foreign = (await other.get(f"{BATCHES}?page_size=1")).json()["next_page_token"]
    assert foreign is None
    first = (await caller.get(f"{BATCHES}?page_size=2")).json()["next_page_token"]
    assert (await other.get(f"{BATCHES}?page_token={first}")).status_code == 400
    assert (await caller.get(f"{BATCHES}?page_token=nonsense")).status_code == 400
    for size in ("0", "-1", "x"):
        assert (await caller.get(f"{BATCHES}?page_size={size}")).status_code == 400
    assert len(await listed(caller, "page_size=100000")) == 5


async def test_8_a_page_is_full_even_where_most_batches_do_not_match(
    caller: Caller, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.dialects.llamacloud.pages.MAX_SIZE", 2)  # looked through two by two
    directory_id = await directory_of(caller)
    made = [(await caller.post(BATCHES, body_of(directory_id))).json()["id"] for _ in range(6)]
    worker_id = await factories.make_worker(service.database, processors=["parse"])
    [lease] = await factories.claim(service.database, worker_id, {"parse": 1})
    running = f"bat-{lease.batch_id}"
    assert await listed(caller, "status=RUNNING&page_size=1") == [running]
    pending = [one for one in reversed(made) if one != running]
    page = (await caller.get(f"{BATCHES}?status=PENDING&page_size=2")).json()
    assert [one["id"] for one in page["items"]] == pending[:2]
    rest = await listed(caller, f"status=PENDING&page_size=2&page_token={page['next_page_token']}")
    assert rest == pending[2:4]


async def test_8_a_list_is_of_that_time_with_its_ends_and_of_that_directory(
    service: Service, caller: Caller
) -> None:
    first, second = await start(caller), await start(caller)
    for batch, at in ((first, "2026-01-01T10:00:00Z"), (second, "2026-01-02T10:00:00.123456Z")):
        await factories.sql(
            service.database,
            "UPDATE batch SET created_at = $2::text::timestamptz WHERE id = $1",
            canonical(batch),
            at,
        )
    assert await listed(caller, "created_at_on_or_after=2026-01-02T10:00:00.123456Z") == [second["id"]]
    assert await listed(caller, "created_at_on_or_before=2026-01-01T10:00:00Z") == [first["id"]]
    both = "created_at_on_or_after=2026-01-01T10:00:00Z&created_at_on_or_before=2026-01-02T10:00:00.123456Z"
    assert await listed(caller, both) == [second["id"], first["id"]]
    assert await listed(caller, "created_at_on_or_after=2026-01-02T10:00:00.123457Z") == []
    assert await listed(
        caller,
        "created_at_on_or_after=0001-01-01T00:00:00Z&created_at_on_or_before=9999-12-31T23:59:59.999999Z",
    )
    assert await listed(caller, f"source_directory_id={second['source_directory_id']}") == [second["id"]]
    assert (await caller.get(f"{BATCHES}?created_at_on_or_after=yesterday")).status_code == 400


async def test_8_a_batch_made_elsewhere_is_no_batch_here(service: Service, caller: Caller) -> None:
    elsewhere = await factories.make_batch(service.database, 1, tenant_id=caller.tenant_id, processor="parse")
    assert await listed(caller, "") == []
    assert (await caller.get(f"{BATCHES}/bat-{elsewhere}")).status_code == 404
    assert (await caller.post(f"{BATCHES}/bat-{elsewhere}/cancel")).status_code == 404
    assert (await caller.get(f"/api/v2/parse/pjb-{elsewhere}-0")).status_code == 404


async def test_8_a_create_that_comes_twice_under_one_key_makes_one_batch(caller: Caller) -> None:
    body = body_of(await directory_of(caller))
    once = {"Idempotency-Key": "a-key"}
    first, again = [await caller.post(BATCHES, body, headers=once) for _ in range(2)]
    assert first.json() == again.json()
    assert await listed(caller, "") == [first.json()["id"]]


HOOK = {"webhook_url": "https://example.com/hook"}


@pytest.mark.parametrize(
    ("hooks", "pointer"),
    [
        ([{}], "/webhook_configurations/0/webhook_url"),
        ([HOOK, {"webhook_url": "https://127.0.0.1/hook"}], "/webhook_configurations/1/webhook_url"),
        ([HOOK | {"webhook_events": []}], "/webhook_configurations/0/webhook_events"),
        ([HOOK | {"webhook_output_format": "xml"}], "/webhook_configurations/0/webhook_output_format"),
        ([HOOK | {"webhook_signing_secret": ""}], "/webhook_configurations/0/webhook_signing_secret"),
        ([HOOK | {"webhook_headers": {"LC-Signature": "x"}}], "/webhook_configurations/0/webhook_headers"),
        ([HOOK] * 9, "/webhook_configurations"),
    ],
)
async def test_8_a_webhook_that_cannot_be_called_refuses_the_batch(
    caller: Caller, hooks: list[dict[str, Any]], pointer: str
) -> None:
    body = body_of(await directory_of(caller)) | {"webhook_configurations": hooks}
    assert list(await refused(caller, BATCHES, body)) == [pointer]
    assert await listed(caller, "") == []


async def test_8_what_does_not_want_anything_of_a_batch_gets_nothing(
    service: Service, caller: Caller
) -> None:
    hooks = [
        HOOK | {"webhook_events": ["parse.success", "unmapped_event"]},
        {"webhook_url": "https://example.com/two", "webhook_events": ["batch.pending", "parse.success"]},
    ]
    await start(caller, webhook_configurations=hooks)
    queued = await factories.sql(service.database, "SELECT url FROM delivery")
    assert queued == ["https://example.com/two"]


async def test_8_a_kept_webhook_never_shows_its_secrets_and_a_batch_takes_a_copy(
    service: Service, caller: Caller, other: Caller
) -> None:
    path, secret = "/api/v1/beta/webhook-configs", "s3cret-of-the-receiver"
    given = HOOK | {
        "webhook_events": ["batch.success"],
        "webhook_headers": {"Authorization": "Bearer very-secret"},
        "webhook_output_format": "json",
        "webhook_signing_secret": secret,
    }
    made = await caller.post(path, given)
    kept = made.json()
    assert (kept["has_secret"], kept["webhook_events"]) == (True, ["batch.success"])
    assert (kept["tenant_type"], kept["tenant_id"]) == ("project", f"prj-{caller.tenant_id}")
    shown = [
        made,
        await caller.get(path),
        await caller.get(f"{path}/{kept['id']}"),
        await caller.get("/api/v2/webhook-configs"),
    ]
    for answer in shown:
        assert secret not in answer.text
        assert "very-secret" not in answer.text
    assert shown[1].json() == shown[3].json()["items"] == [kept]
    stored = await factories.sql(service.database, "SELECT sealed FROM webhook_endpoint")
    assert secret.encode() not in stored[0]

    batch = await start(caller, webhook_configuration_ids=[kept["id"]])
    changed = await caller.send(
        "PUT", f"{path}/{kept['id']}", json={"webhook_url": "https://example.org/new"}
    )
    assert changed.json() == kept | {
        "webhook_url": "https://example.org/new",
        "updated_at": changed.json()["updated_at"],
    }
    assert (await other.get(f"{path}/{kept['id']}")).status_code == 404
    theirs = body_of(await directory_of(other)) | {"webhook_configuration_ids": [kept["id"]]}
    assert await refused(other, BATCHES, theirs) == {"/webhook_configuration_ids/0": "unknown_webhook"}
    assert (await caller.send("PUT", f"{path}/{kept['id']}", json={"webhook_events": []})).status_code == 400
    bad = await caller.send("PUT", f"{path}/{kept['id']}", json={"webhook_url": "https://127.0.0.1"})
    assert bad.status_code == 400
    assert (await caller.send("DELETE", f"{path}/{kept['id']}")).status_code == 204
    assert (await caller.get(path)).json() == []
    worker_id = await factories.make_worker(service.database, processors=["parse"])
    await factories.drain(service.database, worker_id, {"parse": 5})
    assert await factories.sql(service.database, "SELECT url FROM delivery") == ["https://example.com/hook"]
    assert (await get(caller, batch["id"]))["status"] == "COMPLETED"


# --- 9 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "pjb-",
        "pjb-x",
        "pjb-{}",
        "pjb-{}-",
        "pjb-{}-01",
        "pjb-{}--1",
        "pjb-{}-10000000",
        "ejb-{}-0",
        "{}-0",
        "pjb-{}-2",
    ],
)
async def test_9_what_is_no_id_of_a_job_is_not_found(caller: Caller, bad: str) -> None:
    batch = await start(caller, 2)
    found = await caller.get(f"/api/v2/parse/{bad.format(canonical(batch))}")
    assert found.status_code == 404
    assert (await caller.get(f"/api/v2/parse/pjb-{canonical(batch)}-1")).status_code == 200


async def test_9_a_directory_remembers_what_its_owner_says_of_it_and_its_files(caller: Caller) -> None:
    given = {"name": "inbox", "type": "ephemeral", "description": "of today", "system_metadata": {"a": 1}}
    directory = (await caller.post(DIRECTORIES, given)).json()
    assert (directory["type"], directory["description"]) == ("ephemeral", "of today")
    form = {"display_name": "Letter", "unique_id": "letter-1", "metadata": '{"year": 1843, "by": ["Ada"]}'}
    path = f"{DIRECTORIES}/{directory['id']}/files"
    up = await caller.post(
        f"{path}/upload", data=form, files={"upload_file": ("letter.txt", b"Dear Charles")}
    )
    entry = up.json()
    assert (entry["display_name"], entry["unique_id"]) == ("Letter", "letter-1")
    assert entry["metadata"] == {"year": 1843, "by": ["Ada"]}
    assert (await caller.get(f"{path}/{entry['id']}")).json() == entry
    file_id = await caller.upload(b"Dear Ada", "answer.txt")
    added = (await caller.post(path, {"file_id": file_id})).json()
    assert (added["display_name"], added["unique_id"], added["metadata"]) == ("answer.txt", "answer.txt", {})
    for query, found in (
        ("", [added, entry]),
        ("?unique_id=letter-1", [entry]),
        ("?display_name=answer.txt", [added]),
        ("?display_name_contains=ETT", [entry]),
        (f"?file_id={file_id}", [added]),
        ("?file_id=x", []),
    ):
        assert (await caller.get(path + query)).json()["items"] == found
    assert (await caller.send("DELETE", f"{path}/{entry['id']}")).status_code == 204
    assert (await caller.send("DELETE", f"{path}/{entry['id']}")).status_code == 404
    assert (await caller.get(f"/api/v1/beta/files/{entry['file_id']}")).json()["name"] == "letter.txt"


async def test_9_files_are_listed_by_their_ids_and_by_the_whole_of_a_name(caller: Caller) -> None:
    one, two = await caller.upload(b"a", "one.txt"), await caller.upload(b"b", "two.txt")
    for query, found in (
        ("", [two, one]),
        (f"?file_ids={one}&file_ids=x", [one]),
        (f"?file_ids={one}&file_name=two.txt", []),
        ("?file_ids=x", []),
        ("?file_name=two.txt", [two]),
        ("?file_name=two", []),
    ):
        listed = (await caller.get(f"/api/v1/beta/files{query}")).json()["items"]
        assert [file["id"] for file in listed] == found


async def test_9_a_list_is_not_read_for_ever_for_what_its_filter_leaves(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await directory_of(caller, 0)
    monkeypatch.setattr(pages, "MAX_SIZE", 1)
    monkeypatch.setattr(pages, "MOST_READ", 2)
    answer = await caller.get(f"{DIRECTORIES}?type=ephemeral")
    assert (answer.status_code, answer.json()["code"]) == (400, "search_too_broad")
    monkeypatch.setattr(pages, "MOST_READ", 3)
    assert (await caller.get(f"{DIRECTORIES}?type=ephemeral")).json()["items"] == []


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"metadata": "{"}, "invalid_json"),
        ({"metadata": "[]"}, "invalid_type"),
        ({"metadata": '{"a": {"b": 1}}'}, None),
        ({"unique_id": "x" * 300}, "string_too_long"),
        ({"display_name": "a\0b"}, "nul_character"),
        ({"display_name": "x" * 100_000}, "field_too_large"),
    ],
)
async def test_9_a_bad_upload_leaves_no_file(caller: Caller, form: dict[str, str], code: str | None) -> None:
    directory_id = await directory_of(caller, 0)
    up = await caller.post(
        f"{DIRECTORIES}/{directory_id}/files/upload", data=form, files={"upload_file": ("a.txt", b"a")}
    )
    assert up.status_code == 400, up.text
    assert code in (None, up.json()["code"])
    assert (await caller.get("/api/v1/beta/files")).json()["items"] == []


async def test_9_a_file_of_another_project_does_not_come_into_a_directory(
    caller: Caller, other: Caller
) -> None:
    directory_id = await directory_of(caller, 0)
    foreign = await other.upload(b"theirs")
    for file_id in (foreign, str(uuid4()), "x"):
        added = await caller.post(f"{DIRECTORIES}/{directory_id}/files", {"file_id": file_id})
        assert added.status_code == 404


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({}, "/parameters/product_type"),
        ({"product_type": "classify_v2"}, "/parameters/product_type"),
        ({"product_type": "parse_v2"}, "/parameters/tier"),
        ({"product_type": "parse_v2", "tier": "slow"}, "/parameters/tier"),
        ({"product_type": "parse_v2", "tier": "fast", "crop_box": {"top": 0.1}}, "/parameters/crop_box"),
        (
            {"product_type": "parse_v2", "tier": "fast", "page_ranges": {"target_pages": "1,3"}},
            "/parameters/page_ranges/target_pages",
        ),
        (
            {"product_type": "parse_v2", "tier": "fast", "page_ranges": {"target_pages": "5-3"}},
            "/parameters/page_ranges/target_pages",
        ),
        (
            {"product_type": "parse_v2", "tier": "fast", "webhook_configuration_ids": ["whc-x"]},
            "/parameters/webhook_configuration_ids",
        ),
        ({"product_type": "extract_v2"}, "/parameters/data_schema"),
        ({"product_type": "extract_v2", "data_schema": {"type": "nothing"}}, "/parameters/data_schema"),
        (
            {"product_type": "extract_v2", "data_schema": SCHEMA, "extraction_target": "per_page"},
            "/parameters/extraction_target",
        ),
        (
            {"product_type": "extract_v2", "data_schema": SCHEMA, "system_prompt": "x" * 20_000},
            "/parameters/system_prompt",
        ),
    ],
)
async def test_9_parameters_that_cannot_be_followed_are_refused_where_they_stand(
    caller: Caller, parameters: dict[str, Any], pointer: str
) -> None:
    found = await refused(caller, CONFIGURATIONS, {"name": "c", "parameters": parameters})
    assert list(found) == [pointer]


async def test_9_pages_that_follow_each_other_can_be_chosen(service: Service, caller: Caller) -> None:
    for selection, shown in (("2", "2-2"), (" 3-5 , 2,6", "2-6"), ("1-5", "1-5")):
        parameters = {"product_type": "parse_v2", "tier": "fast", "page_ranges": {"target_pages": selection}}
        made = await caller.post(CONFIGURATIONS, {"name": "c", "parameters": parameters})
        assert made.json()["parameters"]["page_ranges"] == {"target_pages": shown}


async def test_9_a_configuration_stays_of_its_type_and_a_preset_as_it_is(caller: Caller) -> None:
    parse = {"product_type": "parse_v2", "tier": "cost_effective", "version": "2026-09-28"}
    made = (await caller.post(CONFIGURATIONS, {"name": "c", "parameters": parse})).json()
    assert made["parameters"] == parse
    other = {"parameters": {"product_type": "extract_v2", "data_schema": SCHEMA}}
    path = f"{CONFIGURATIONS}/{made['id']}"
    assert (await caller.send("PUT", path, json=other)).status_code == 400
    renamed = (await caller.send("PUT", path, json={"name": "d"})).json()
    assert (renamed["name"], renamed["parameters"]) == ("d", parse)
    preset = f"{CONFIGURATIONS}/cfg-PARSE_AGENTIC"
    assert (await caller.get(preset)).json()["parameters"]["tier"] == "agentic"
    refusal = await caller.send("DELETE", preset)
    assert (refusal.status_code, refusal.headers["x-should-retry"]) == (409, "false")
    for query, count in (
        ("", 1),
        ("?product_type=extract_v2", 0),
        ("?product_type=parse_v2&product_type=x", 1),
    ):
        assert len((await caller.get(CONFIGURATIONS + query)).json()["items"]) == count


async def test_9_a_parse_job_names_its_document_once_and_one_that_is_there(
    caller: Caller, other: Caller
) -> None:
    file_id, foreign = await caller.upload(b"a note"), await other.upload(b"theirs")
    fast = {"tier": "fast", "version": "latest"}
    for body in (fast, fast | {"file_id": file_id, "source_url": "https://example.com/a.pdf"}):
        assert await refused(caller, "/api/v2/parse", body) == {"": "one_document"}
    assert await refused(caller, "/api/v2/parse", {"file_id": file_id}) == {"/tier": "missing"}
    inside = fast | {"source_url": "https://127.0.0.1/a.pdf"}
    assert await refused(caller, "/api/v2/parse", inside) == {"/source_url": "address_refused"}
    unknown = {"file_id": file_id, "configuration_id": "cfg-NOTHING"}
    assert list(await refused(caller, "/api/v2/parse", unknown)) == ["/configuration_id"]
    told = fast | {"file_id": file_id, "webhook_configurations": [{"webhook_url": "https://127.0.0.1/"}]}
    assert list(await refused(caller, "/api/v2/parse", told)) == ["/webhook_configurations/0/webhook_url"]
    kept = fast | {"file_id": file_id, "webhook_configuration_ids": ["whc-x"]}
    assert list(await refused(caller, "/api/v2/parse", kept)) == ["/webhook_configuration_ids/0"]
    await refused(caller, "/api/v2/parse", fast | {"file_id": foreign}, 404)
    made = await caller.post("/api/v2/parse", fast | {"file_id": file_id, "user_metadata": {"a": "b"}})
    assert (made.status_code, made.json()["status"]) == (200, "PENDING")
    job = (await caller.get(f"/api/v2/parse/{made.json()['id']}?expand=text")).json()
    assert job["job"] == made.json()
    assert job["job"]["user_metadata"] == {"a": "b"}
    assert job["text"] is None
    assert await listed(caller, "") == []


async def test_9_an_upload_to_be_parsed_is_kept_only_with_its_job(caller: Caller) -> None:
    def form(configuration: str) -> dict[str, Any]:
        return {"data": {"configuration": configuration}, "files": {"file": ("a.txt", b"a note")}}

    inside = '{"tier": "fast", "webhook_configurations": [{"webhook_url": "https://127.0.0.1/"}]}'
    for bad in ("{", "{}", '{"tier": "slow"}', '{"configuration_id": "cfg-NOTHING"}', inside):
        assert (await caller.post("/api/v2/parse/upload", **form(bad))).status_code == 400
    assert (await caller.get("/api/v1/beta/files")).json()["items"] == []
    made = await caller.post("/api/v2/parse/upload", **form('{"tier": "fast"}'))
    assert (made.status_code, made.json()["name"]) == (200, "a.txt")
    [file] = (await caller.get("/api/v1/beta/files")).json()["items"]
    assert (file["name"], file["purpose"]) == ("a.txt", "parse")


async def test_9_an_upload_that_comes_twice_under_one_key_makes_one_job_and_one_file(caller: Caller) -> None:
    async def send(text: bytes) -> Any:
        form = {"data": {"configuration": '{"tier": "fast"}'}, "files": {"file": ("a.txt", text)}}
        return await caller.post("/api/v2/parse/upload", headers={"Idempotency-Key": "a-key"}, **form)

    first, again, other = await send(b"a note"), await send(b"a note"), await send(b"another")
    assert first.json() == again.json()
    assert other.status_code == 422
    assert len((await caller.get("/api/v1/beta/files")).json()["items"]) == 1


async def test_9_an_extract_job_needs_one_configuration_and_a_document(caller: Caller, other: Caller) -> None:
    file_id, foreign = await caller.upload(b"a note"), await other.upload(b"theirs")
    path, inline = "/api/v2/extract", {"data_schema": SCHEMA}
    assert await refused(caller, path, {"file_input": file_id}) == {"": "one_configuration"}
    both = {"file_input": file_id, "configuration": inline, "configuration_id": "cfg-EXTRACT_DEFAULT"}
    assert await refused(caller, path, both) == {"": "one_configuration"}
    bad = {"file_input": file_id, "configuration": {"data_schema": {"type": "nothing"}}}
    assert list(await refused(caller, path, bad)) == ["/configuration/data_schema"]
    unknown = {"file_input": file_id, "configuration_id": "cfg-NOTHING"}
    assert list(await refused(caller, path, unknown)) == ["/configuration_id"]
    other_kind = {"file_input": file_id, "configuration_id": "cfg-PARSE_FAST"}
    assert list(await refused(caller, path, other_kind)) == ["/configuration_id"]
    for missing in (foreign, str(uuid4()), "x", f"pjb-{uuid4()}-0"):
        await refused(caller, path, {"file_input": missing, "configuration": inline}, 404)
    made = (await caller.post(path, {"file_input": file_id, "configuration": inline})).json()
    assert (made["status"], made["file_input"], made["extract_result"]) == ("PENDING", file_id, None)
    assert (await caller.get(f"{path}/{made['id']}")).json() == made
    gone = await caller.send("DELETE", f"{path}/{made['id']}")
    assert (gone.status_code, gone.headers["x-should-retry"]) == (409, "false")
    assert (await caller.post(f"{path}/{made['id']}/cancel")).status_code == 200
