"""Room for the bodies that a process holds in memory at the same time. Files are not among them: they pass through."""

from starlette.types import Scope

from gristmill.domain.errors import Unavailable

_TAKEN = "gristmill.body_bytes"  # in a request's scope: what it has taken


class Room:
    """A limit on the bytes of all bodies together; one body always finds room."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.taken = 0

    def take(self, scope: Scope, size: int) -> None:
        """Raises Unavailable: whoever comes back soon finds room again."""
        mine: int = scope.get(_TAKEN, 0)
        if self.taken - mine and self.taken + size > self._max_bytes:
            raise Unavailable("too many large bodies at the same time; try again soon", code="busy")
        scope[_TAKEN] = mine + size
        self.taken += size

    def leave(self, scope: Scope) -> None:
        """At the end of the request, however it ended."""
        self.taken -= scope.pop(_TAKEN, 0)
