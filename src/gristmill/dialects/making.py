"""From a foreign body to a batch of ours, as the canonical create does it: read once, checked, stored, answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, create, storing
from gristmill.api.envelope import as_json
from gristmill.api.idempotency import Once
from gristmill.api.parts import Parts, parts
from gristmill.intake import json
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch

View = Callable[[Batch], dict[str, Any]]  # of a batch in the dialect's words, with its `id`


@dataclass(frozen=True, slots=True)
class Making:
    """One create; `path`: what it makes is to be found below. One that comes again under its `Idempotency-Key` gets the answer
    of the first, by `once`."""

    request: Request
    key: Key
    path: str
    once: Once

    @classmethod
    def begin(cls, request: Request, key: Key, path: str) -> "Making":
        return cls(request, key, path, Once(parts(request), request, key.tenant_id))

    @property
    def of(self) -> Parts:
        return parts(self.request)

    async def body(self, max_bytes: int) -> dict[str, Any]:
        """Raises what reading a body raises."""
        text = await body.read_json_text(self.request, max_bytes)
        async with self.of.aside.turn(text) as run:
            self.once.fingerprint(text)
            found: dict[str, Any] = await run(json.parse, text, dict)
            return found

    async def made(
        self, canonical: Mapping[str, Any], finished: Callable[[NewBatch], NewBatch], view: View
    ) -> Response:
        """Of the body of a canonical create, with what `finished` adds to the batch. Raises Invalid."""
        new, content = await create.new_batch(self.of, self.key, dict(canonical))
        return await self.stored((finished(new), content), view)

    async def stored(
        self, new: storing.New, view: View, afterwards: Callable[[], None] | None = None
    ) -> Response:
        """Of a batch that has been checked."""

        def answer(batch: Batch) -> Response:
            shown = view(batch)
            return as_json(shown, headers={"Location": f"{self.path}/{shown['id']}"})

        return await storing.answered(self.of, self.once, new, answer, afterwards)
