"""The output and the error file of a batch: no files of ours, but its results written anew whenever they are read.

So their ids are those of the batch, they are the same on every host, and deleting one deletes no result: it is noted.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import orjson

from gristmill.api.envelope import dumps, fragment
from gristmill.api.parts import Parts
from gristmill.api.result_streams import windows
from gristmill.dialects.base import facts, inward, outward
from gristmill.dialects.openai.words import BAD_SOURCE, BATCH, NAME, unix, why
from gristmill.domain.errors import NotFound
from gristmill.domain.states import ItemStatus
from gristmill.store import batches, origins
from gristmill.store.batches import Batch
from gristmill.store.results import Result

Kind = Literal["output", "error"]
_PREFIX: dict[Kind, str] = {"output": "file-output-", "error": "file-error-"}
_STATUS: dict[Kind, ItemStatus] = {"output": ItemStatus.SUCCESS, "error": ItemStatus.FAILED}
_ENDED_WITHOUT_RUN = {408: "batch_expired", 499: "batch_cancelled"}


def file_id(batch: Batch, kind: Kind) -> str | None:
    """None: it would be empty, or the batch has not ended."""
    if batch.ended_at is None or why(batch) == BAD_SOURCE:
        return None
    return outward(_PREFIX[kind], batch.id) if (batch.success if kind == "output" else batch.failed) else None


def asked(text: str) -> tuple[Kind, UUID] | None:
    """The file that an id names, if it is of this kind at all. Raises NotFound."""
    kind = next((kind for kind, prefix in _PREFIX.items() if text.startswith(prefix)), None)
    return None if kind is None else (kind, inward(_PREFIX[kind], text))


@dataclass(frozen=True, slots=True)
class Output:
    batch: Batch
    kind: Kind

    @property
    def expires_at(self) -> datetime | None:
        ended, seconds = self.batch.ended_at, facts(self.batch).get("output_seconds")
        return None if ended is None or seconds is None else ended + timedelta(seconds=seconds)

    async def lines(self, of: Parts) -> AsyncIterator[bytes]:
        async for window in windows(of, self.batch, {"status": _STATUS[self.kind]}):
            yield b"".join([dumps(_line(self.batch, result)) + b"\n" for result in window])

    async def size(self, of: Parts) -> int:
        """In bytes. Written once to find out, and kept for as long as the batch is not retried."""
        known = facts(self.batch).get(f"{self.kind}_bytes")
        if known is not None and known[0] == self.batch.run:
            return int(known[1])
        size = sum([len(piece) async for piece in self.lines(of)])
        await self._note(of, {f"{self.kind}_bytes": [self.batch.run, size]})
        return size

    async def delete(self, of: Parts) -> None:
        await self._note(of, {f"{self.kind}_gone": self.batch.run})

    async def _note(self, of: Parts, more: dict[str, Any]) -> None:
        async with of.database.transaction() as tx:
            await origins.note_facts(tx, self.batch.tenant_id, self.batch.id, more)

    async def view(self, of: Parts) -> dict[str, Any]:
        return {
            "id": file_id(self.batch, self.kind),
            "object": "file",
            "bytes": await self.size(of),
            "created_at": unix(self.batch.ended_at),
            "expires_at": unix(self.expires_at),
            "filename": f"{outward(BATCH, self.batch.id)}_{self.kind}.jsonl",
            "purpose": "batch_output",
            "status": "processed",
            "status_details": None,
        }


async def find(of: Parts, tenant_id: UUID, kind: Kind, batch_id: UUID) -> Output:
    """Raises NotFound: unknown, empty, deleted, expired, or not there yet."""
    async with of.database.connection() as connection:
        batch = await batches.get(connection, tenant_id, batch_id)
    found = Output(batch, kind)
    gone = facts(batch).get(f"{kind}_gone") == batch.run
    over = found.expires_at is not None and found.expires_at < datetime.now(UTC)
    if batch.dialect != NAME or gone or over or file_id(batch, kind) is None:
        raise NotFound("no such file")
    return found


def _line(batch: Batch, result: Result) -> dict[str, Any]:
    response, error = None, None
    request_id = f"{batch.id}:{result.ordinal}"  # which the model's endpoint was sent, too
    if result.status is ItemStatus.SUCCESS:
        response = {"status_code": 200, "request_id": request_id, "body": fragment(result.output)}
    else:
        told = orjson.loads(result.error or "{}")
        code = _ENDED_WITHOUT_RUN.get(result.code or 0, told.get("type"))
        if (status := told.get("upstream_status") or 0) >= 400:
            said = {"message": told["message"], "type": told["type"], "param": None, "code": code}
            response = {"status_code": status, "request_id": request_id, "body": {"error": said}}
        else:
            error = {"code": code, "message": told.get("message")}
    line_id = f"batch_req_{batch.id.hex}_{result.ordinal}"
    return {"id": line_id, "custom_id": result.custom_id, "response": response, "error": error}
