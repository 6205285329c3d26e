"""The short way from a path to its function finds what the framework would find."""

from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from gristmill import dialects
from gristmill.api.app import _ROUTERS
from gristmill.api.routes import Routes
from service import Caller, Service

ROUTERS = [*(room.router for room in _ROUTERS), *(dialect.router for dialect in dialects.DIALECTS)]
ALL = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
# They take something else than the request, and are the framework's.
OTHERS = {"/healthz", "/docs", "/docs/start.js", "/docs/{name}"}


def scope_of(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": ""}


def first_of(method: str, path: str) -> tuple[APIRoute, dict[str, str]] | None:
    """As the framework goes about it: one after the other."""
    for route in ALL:
        match, found = route.matches(scope_of(method, path))
        if match is Match.FULL:
            return route, found["path_params"]
    return None


@pytest.mark.parametrize("text", ["x", "550e8400-e29b-41d4-a716-446655440000", "summary", "a b\nc", "ü:1"])
def test_every_path_of_every_route_leads_where_the_framework_would_go(text: str) -> None:
    routes = Routes(ROUTERS)
    for route in ALL:
        path = route.path_format.format(**dict.fromkeys(route.param_convertors, text))
        for method in route.methods or ():
            expected, scope = first_of(method, path), scope_of(method, path)
            if expected is None:  # a name that may have slashes in it has no line breaks
                assert "\n" in text
                assert routes.found(scope) is None
            elif expected[0].path in OTHERS:
                assert routes.found(scope) is None
            else:
                assert routes.found(scope) == (expected[0].endpoint, expected[1])
                assert scope["route"] is expected[0]


def test_all_routes_but_a_few_take_the_short_way() -> None:
    routes = Routes(ROUTERS)
    framework = {
        route.path
        for route in ALL
        for method in route.methods or ()
        if routes.found(scope_of(method, route.path_format)) is None
    }
    assert framework == OTHERS


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/api/v1/batches/"), ("PUT", "/api/v1/batches"), ("BREW", "/api/v1/batches")],
)
def test_what_no_route_matches_is_left_to_the_framework(method: str, path: str) -> None:
    assert Routes(ROUTERS).found(scope_of(method, path)) is None


async def test_a_route_that_is_added_later_is_found(service: Service, caller: Caller) -> None:
    assert (await caller.get("/v1/batches")).status_code == 404
    dialects.install(service.app)
    assert (await caller.get("/v1/batches")).status_code == 200
