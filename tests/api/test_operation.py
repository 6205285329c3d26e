"""For probes, scrapers and people: health, metrics, processors, the OpenAPI document and its page."""

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gristmill.api.queue_depth import AT_MOST_EVERY_SECONDS
from gristmill.db import Database
from service import Caller, Service, code_of


async def test_healthz_needs_no_key(service: Service) -> None:
    answer = await service.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_every_get_answers_head_likewise_without_a_body(service: Service, path: str) -> None:
    whole, head = [await service.client.request(method, path) for method in ("GET", "HEAD")]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert (head.headers["content-length"] == whole.headers["content-length"]) or path == "/metrics"


async def test_head_is_refused_as_get_is(caller: Caller, service: Service) -> None:
    assert (await caller.send("HEAD", "/api/v1/nothing")).status_code == 404
    assert (await service.client.head("/api/v1/batches")).status_code == 401
    assert (await caller.send("HEAD", "/api/v1/batches/x/cancel")).status_code == 405


async def test_readyz_is_503_while_the_process_drains(service: Service) -> None:
    assert (await service.client.get("/readyz")).status_code == 200
    service.app.state.parts.draining.set()
    answer = await service.client.get("/readyz")
    assert (answer.status_code, answer.json()["draining"]) == (503, True)


async def test_readyz_is_503_without_this_versions_schema(service: Service, empty_database_url: str) -> None:
    empty = await Database(empty_database_url).open()
    parts = service.app.state.parts
    object.__setattr__(parts, "database", empty)
    answer = await service.client.get("/readyz")
    assert (answer.status_code, answer.json()["database"], answer.json()["schema"]) == (503, True, False)
    await empty.close()


async def test_metrics_count_requests_by_route_and_batches(service: Service, caller: Caller) -> None:
    async def value(name: str, **labels: str) -> float:
        text = (await service.client.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    route = "/api/v1/batches/{batch_id}/results"
    before = await value("gristmill_http_requests_total", route=route, status="200")
    items = await value("gristmill_items_created_total", processor="noop")
    batch = await caller.batch(3)
    await caller.get(f"/api/v1/batches/{batch['id']}/results")
    assert await value("gristmill_http_requests_total", route=route, status="200") == before + 1
    assert await value("gristmill_items_created_total", processor="noop") == items + 3


async def test_metrics_tell_autoscalers_how_much_waits(
    service: Service, caller: Caller, empty_database_url: str
) -> None:
    async def startable() -> str | None:
        service.app.state.parts.depth._measured_at = -1000.0  # else it is told again for 5 seconds
        text = (await service.client.get("/metrics")).text
        lines = [
            line
            for line in text.splitlines()
            if line.startswith('gristmill_queue_startable_items{processor="noop"}')
        ]
        return lines[0].split()[1] if lines else None

    batch = await caller.batch(3)
    assert await startable() == "3.0"
    await caller.post(f"/api/v1/batches/{batch['id']}/pause")
    assert await startable() == "0.0"

    empty = await Database(empty_database_url).open()
    service.app.state.parts.depth._database = empty
    assert await startable() is None
    await empty.close()


async def test_the_database_is_asked_once_however_often_metrics_are(service: Service, caller: Caller) -> None:
    async def told() -> bool:
        return 'startable_items{processor="noop"} 3.0' in (await service.client.get("/metrics")).text

    await service.client.get("/metrics")
    await caller.batch(3)
    assert not await told()
    service.app.state.parts.depth._measured_at -= AT_MOST_EVERY_SECONDS
    assert await told()


async def test_a_method_of_the_callers_own_makes_no_label(service: Service) -> None:
    await service.client.request("BREW", "/api/v1/batches")
    assert "BREW" not in (await service.client.get("/metrics")).text


async def test_processors_show_what_they_take(caller: Caller) -> None:
    shown = {one["name"]: one for one in await caller.data("/api/v1/processors")}
    assert list(shown) == sorted(shown)
    assert {"agent_message", "completion", "noop", "scripted"} <= set(shown)
    assert shown["noop"]["input_schema"]["required"] == ["text"]
    assert shown["scripted"]["config_schema"]["properties"].keys() == {"do", "password"}
    assert (shown["agent_message"]["configured_by"], shown["agent_message"]["config_schema"]) == (
        "agent_id",
        None,
    )
    assert await caller.data("/api/v1/processors/noop") == shown["noop"]
    assert code_of(await caller.get("/api/v1/processors/nothing"), 404) == "not_found"


# --- the document ---------------------------------------------------------------------------------------------


@pytest.fixture
async def document(service: Service) -> Any:
    return (await service.client.get("/openapi.json")).json()


def operations(document: Any) -> dict[str, Any]:
    return {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


async def test_every_reference_of_the_document_leads_somewhere(document: Any) -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))
    assert references
    assert references <= document["components"]["schemas"].keys()


async def test_every_route_documents_its_refusals_and_its_key(document: Any) -> None:
    found = operations(document)
    assert len(found) >= 30
    for name, operation in found.items():
        if "/api/v1/" not in name:
            continue
        assert {"401", "403", "503", "400"} <= operation["responses"].keys(), name
        assert ("404" in operation["responses"]) == ("{" in name), name
        assert operation["security"], name
        assert operation["summary"], name
        assert ("422" in operation["responses"]) == (name == "POST /api/v1/batches"), name


async def test_bodies_have_examples_that_pass(document: Any, caller: Caller) -> None:
    content = operations(document)["POST /api/v1/batches"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/BatchCreate"}
    agent_id = await caller.agent()
    for example in content["examples"].values():
        value = example["value"]
        if "agent_id" in value:
            value["agent_id"] = agent_id
        assert (await caller.post("/api/v1/batches", value)).status_code == 202
    content = operations(document)["POST /api/v1/agents"]["requestBody"]["content"]["application/json"]
    value = content["examples"]["agent"]["value"]
    value["mcp_servers"][0]["headers"] = {"Authorization": "Bearer x"}
    assert (await caller.post("/api/v1/agents", value)).status_code == 201


async def test_answers_have_exactly_the_documented_fields(document: Any, caller: Caller) -> None:
    batch, agent_id, file_id = await caller.batch(1), await caller.agent(), await caller.upload(b"x")
    shown = {
        "BatchAnswer": batch,
        "ResultAnswer": (await caller.data(f"/api/v1/batches/{batch['id']}/results"))[0],
        "ResultDetail": await caller.data(f"/api/v1/batches/{batch['id']}/results/req-0"),
        "AgentAnswer": await caller.data(f"/api/v1/agents/{agent_id}"),
        "AgentVersionAnswer": (await caller.data(f"/api/v1/agents/{agent_id}/versions"))[0],
        "FileAnswer": await caller.data(f"/api/v1/files/{file_id}"),
        "ProcessorAnswer": (await caller.data("/api/v1/processors"))[0],
        "Pagination": (await caller.get("/api/v1/batches")).json()["pagination"],
        "ErrorAnswer": (await caller.get("/nothing")).json(),
        "ErrorObject": (await caller.get("/nothing")).json()["error"],
    }
    for model, value in shown.items():
        assert document["components"]["schemas"][model]["properties"].keys() == value.keys(), model


async def test_the_page_of_the_document_needs_no_other_host(service: Service) -> None:
    page = await service.client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert not re.search(r"https?://|<script>|onload", page.text)
    for name in re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text):
        asset = await service.client.get(f"/{name}")
        assert (asset.status_code, len(asset.content) > 100) == (200, True), name
        assert "html" not in asset.headers["content-type"]
    assert code_of(await service.client.get("/docs/..%2f..%2fsecret"), 404) == "not_found"
    assert code_of(await service.client.get("/docs/__init__.py"), 404) == "not_found"


async def test_the_page_can_show_this_version_of_the_document(document: Any, service: Service) -> None:
    assert document["openapi"].startswith("3.1")
    script = (await service.client.get("/docs/swagger-ui-bundle.js")).text
    assert "openapi_3_1" in script or "OpenAPI 3.1" in script or "oas31" in script.lower()
