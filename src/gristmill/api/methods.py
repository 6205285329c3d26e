"""Which methods a path knows: of all routes together, where the framework says only those of the first that fits."""

from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute


class Methods:
    def __init__(self, routers: Iterable[APIRouter]) -> None:
        routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
        self._known = [(route.path_regex, route.methods) for route in routes]

    def of(self, path: str) -> list[str]:
        """In the order of the alphabet. Whoever answers GET answers HEAD, too (`front.Front`)."""
        found = {method for regex, methods in self._known if regex.match(path) for method in methods}
        return sorted(found | ({"HEAD"} if "GET" in found else set()))
