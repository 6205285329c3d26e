"""From a body in that system's words to a batch of ours: checked and stored as the canonical create does it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gristmill import metrics
from gristmill.api import body, create, idempotency
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import json
from gristmill.store import batches
from gristmill.store.batches import Batch, NewBatch
from gristmill.store.keys import Key

MAX_BODY_BYTES = 1024 * 1024
MAX_FILES = 1000  # of one batch

Places = Mapping[str, str]  # where a finding of ours about a create lies in the body that it was made from


@dataclass(frozen=True, slots=True)
class Making:
    """One create: the answer of the first is given again to one that comes again under its `Idempotency-Key`."""

    request: Request
    key: Key
    once: idempotency.Once

    @classmethod
    def of(cls, request: Request, key: Key) -> "Making":
        return cls(request, key, idempotency.Once(parts(request), request, key.tenant_id))

    async def body(self) -> dict[str, Any]:
        """Raises what reading a body raises."""
        text = await body.read_json_text(self.request, MAX_BODY_BYTES)
        self.once.fingerprint(text)
        return json.parse(text, dict)

    async def made(
        self,
        given: Mapping[str, Any],
        finished: Callable[[NewBatch], NewBatch],
        view: Callable[[Batch], dict[str, Any]],
        places: Places,
    ) -> Response:
        """Stores the batch of the canonical body `given`, with what `finished` adds to it. Raises Invalid with pointers into
        the foreign body."""
        of: Parts = parts(self.request)
        try:
            new, content = await create.new_batch(of, self.key, dict(given))
        except Invalid as wrong:
            raise Invalid([_placed(one, places) for one in wrong.problems]) from None
        async with of.database.transaction() as tx:
            if (before := await self.once.begin(tx)) is not None:
                return before
            await create.store(tx, finished(new), content)
            batch = await batches.get(tx, self.key.tenant_id, new.id)
            if batch.total > MAX_FILES:  # some came in since it was looked at
                raise too_many_files()
            shown = view(batch)
            answer = as_json(shown, headers={"Location": f"{self.request.scope['path']}/{shown['id']}"})
            await self.once.keep(tx, answer)
        of.wake()
        metrics.batch_created(new.processor, batch.total)
        return answer


def too_many_files() -> Invalid:
    detail = f"the directory has more than {MAX_FILES} files, the most that a batch takes"
    return Invalid([Problem("/source_directory_id", "too_many_files", detail)])


def _placed(problem: Problem, places: Places) -> Problem:
    for ours, theirs in places.items():
        if problem.pointer.startswith(ours):
            return replace(problem, pointer=theirs + problem.pointer.removeprefix(ours))
    return problem
