"""Which methods a path knows: of all its routes, where the framework names only those of the first."""

from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute


class Methods:
    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._routes: list[APIRoute] = []
        for router in routers:
            self.add(router)

    def add(self, router: APIRouter) -> None:
        self._routes += [route for route in router.routes if isinstance(route, APIRoute)]

    def of(self, path: str) -> list[str]:
        """In the order of the alphabet. Whoever answers GET answers HEAD, too (`front.Front`)."""
        first = next((route for route in self._routes if route.path_regex.match(path)), None)
        if first is None:
            return []
        same = [route.methods or set() for route in self._routes if route.path_format == first.path_format]
        found = set().union(*same)
        return sorted(found | ({"HEAD"} if "GET" in found else set()))
