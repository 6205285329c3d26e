"""What all dialects have in common: refusals in their own shape, ids, batches that are theirs alone."""

import re
from uuid import uuid4

import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

import factories
from gristmill.api import errors
from gristmill.api.auth import caller as authenticate
from gristmill.api.envelope import as_json
from gristmill.api.errors import Refusal
from gristmill.dialects import DIALECTS, base
from gristmill.dialects.base import Dialect
from gristmill.domain.errors import Conflict, InFlight, NotFound
from service import Caller, Service

router = APIRouter(include_in_schema=False)


@router.get("/probe/{batch_id}")
async def get_probe(request: Request, batch_id: str) -> Response:
    key = await authenticate(request, "batches:read")
    batch = await base.find(request, key, "probe", base.inward("prb_", batch_id))
    return as_json({"status": batch.status})


@router.get("/probe/conflicts/{kind}")
async def get_conflict(request: Request, kind: str) -> Response:
    await base.ignore_body(request)
    raise {"state": Conflict, "flight": InFlight}[kind]("not now")


def refused(refusal: Refusal) -> Response:
    return base.refusal(refusal, {"probe": refusal.code})


PROBE = Dialect("probe", router, re.compile("/probe/"), refused)


@pytest.fixture
def probed(service: Service) -> Service:
    service.app.include_router(PROBE.router)
    errors.shape(service.app, PROBE.paths, PROBE.refused)
    return service


async def test_a_refusal_takes_the_shape_of_its_path_for_unknown_routes_too(
    probed: Service, caller: Caller
) -> None:
    assert (await caller.get("/probe/no/such/route")).json() == {"probe": "not_found"}
    assert (await probed.client.get("/probe/x")).json() == {"probe": "unauthenticated"}
    assert (await caller.get("/prob/x")).json()["error"]["code"] == "not_found"


async def test_a_conflict_that_stays_tells_clients_not_to_come_back(probed: Service, caller: Caller) -> None:
    stays = await caller.get("/probe/conflicts/state")
    passes = await caller.get("/probe/conflicts/flight")
    assert (stays.status_code, stays.headers["x-should-retry"]) == (409, "false")
    assert (passes.status_code, passes.headers["retry-after"]) == (409, "1")
    assert "x-should-retry" not in passes.headers
    assert stays.headers["request-id"] == stays.headers["x-request-id"]


async def test_a_dialect_knows_only_batches_that_were_made_through_it(
    probed: Service, caller: Caller
) -> None:
    batch_id = await factories.make_batch(probed.database, 1, tenant_id=caller.tenant_id)
    assert (await caller.get(f"/probe/{base.outward('prb_', batch_id)}")).status_code == 404


def test_an_id_goes_out_and_comes_in() -> None:
    row_id = uuid4()
    assert base.inward("prb_", base.outward("prb_", row_id)) == row_id
    for bad in ("", "prb_", str(row_id), f"prb_{row_id}", f"prx_{row_id.hex}", f"prb_{row_id.hex}0"):
        with pytest.raises(NotFound):
            base.inward("prb_", bad)


async def test_every_route_of_every_dialect_asks_for_credentials_in_the_dialects_shape(
    service: Service,
) -> None:
    for dialect in DIALECTS:
        for route in dialect.router.routes:
            assert not getattr(route, "include_in_schema", False), route.path  # type: ignore[attr-defined]
            path = re.sub(r"\{[^}]*\}", "a1", route.path)  # type: ignore[attr-defined]
            assert dialect.paths.match(path), path
            for method in getattr(route, "methods", None) or ():
                answer = await service.client.request(method, path)
                assert answer.status_code == 401, (method, path, answer.text)
                assert "error_code" not in answer.json() or dialect.name == "koosearch", path


async def test_a_method_that_a_path_of_a_dialect_does_not_know_is_told_which_it_does(caller: Caller) -> None:
    answer = await caller.send("PUT", "/v1/messages/batches")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await caller.send("PUT", "/tasks/x/details")).headers["allow"] == "GET, HEAD"
