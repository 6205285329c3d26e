"""The way from a path to the function that answers it, and which methods a path knows.

The framework tries one route after the other, each router's twice, and builds what no route here asks for: half of what a
small read costs (docs/performance.md). All our routes take the request and the texts of their path, and answer with a
`Response`, so they are found by one pattern for each method and called as they are. What is found here not, or takes
anything else, is the framework's.
"""

import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

Endpoint = Callable[..., Coroutine[Any, Any, Response]]
_GROUP = re.compile(r"\(\?P<\w+>")


@dataclass(frozen=True, slots=True)
class _Way:
    """`first`: the number of the group that holds the first of the path's texts."""

    route: APIRoute
    names: Sequence[str]
    first: int
    plain: bool  # it asks for nothing else


class Routes:
    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._routes: list[APIRoute] = []
        self._tables: dict[str, _Table] = {}
        for router in routers:
            self.add(router)

    def add(self, router: APIRouter) -> None:
        self._routes += [route for route in router.routes if isinstance(route, APIRoute)]
        self._tables.clear()

    def found(self, scope: Scope) -> tuple[Endpoint, dict[str, str]] | None:
        """What answers the request, and the texts of its path by name; notes the route in the scope. None: ask the framework."""
        method: str = scope["method"]
        table = self._tables.get(method)
        if table is None:
            if method not in _METHODS:
                return None
            of_method = [route for route in self._routes if method in (route.methods or ())]
            table = self._tables[method] = _Table(of_method)
        return None if scope.get("root_path") else table.found(scope)

    def methods(self, path: str) -> list[str]:
        """Of all routes with this path, where the framework names only those of the first. In the order of the alphabet.
        Whoever answers GET answers HEAD, too (`front.Front`)."""
        first = next((route for route in self._routes if route.path_regex.match(path)), None)
        if first is None:
            return []
        same = [route.methods or set() for route in self._routes if route.path_format == first.path_format]
        found = set().union(*same)
        return sorted(found | ({"HEAD"} if "GET" in found else set()))


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


class _Table:
    """The routes of one method as one pattern, in their order. Behind each stands an empty group: the last that took part says
    which it was."""

    def __init__(self, routes: Sequence[APIRoute]) -> None:
        self._ways: dict[int | None, _Way] = {}
        patterns, groups = [], 0
        for route in routes:
            names = list(route.param_convertors)
            patterns.append(f"(?:{_GROUP.sub('(', route.path_regex.pattern)})()")
            self._ways[groups + len(names) + 1] = _Way(route, names, groups + 1, _is_plain(route))
            groups += len(names) + 1
        self._pattern = re.compile("|".join(patterns) or "(?!)")

    def found(self, scope: Scope) -> tuple[Endpoint, dict[str, str]] | None:
        match = self._pattern.match(scope["path"])
        if match is None or not (way := self._ways[match.lastindex]).plain:
            return None
        scope["route"] = way.route
        return way.route.endpoint, {name: match[number] for number, name in enumerate(way.names, way.first)}


def _is_plain(route: APIRoute) -> bool:
    """Whether it takes the request and the texts of its path, and nothing else of the framework."""
    signature = inspect.signature(route.endpoint)
    request, *texts = [one.annotation for one in signature.parameters.values()] or [None]
    return (
        request is Request
        and all(one is str for one in texts)
        and list(signature.parameters)[1:] == list(route.param_convertors)
        and inspect.iscoroutinefunction(route.endpoint)
        and issubclass(signature.return_annotation or object, Response)
        and not route.dependencies
    )
