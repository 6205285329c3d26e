"""Batches of any number of requests out of one create: for dialects whose clients post more than 1,000 at once.

The requests come one by one. What fits into a canonical create goes its way. More of them are checked as they come, written
as JSON Lines through `Upload`, and ingested like an uploaded file: a few MiB of them are in memory at any time, and a bad
one is a 400 before anything is stored.

The bytes are no file of the tenant's. They are in no list and cannot be named; from the create on they are the batch's
(`ingest.owned`), and they go when the ingest has ended, for then its items hold all of it. Of a create that comes to
nothing they go as those of any broken-off upload do.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson

from gristmill import processors
from gristmill.api import create, storing
from gristmill.api.create import Content
from gristmill.api.parts import Parts
from gristmill.api.sources import MAX_ITEMS, FromFile
from gristmill.api.upload import Upload
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import draft, items
from gristmill.intake.draft import AnyProcessor, Draft, read_requests, request_of
from gristmill.intake.items import PROBLEMS_EACH
from gristmill.intake.problems import MAX_PROBLEMS, pointer
from gristmill.intake.source import FileOptions
from gristmill.processors.agent_message import AgentMessage
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.new_batches import NewBatch
from gristmill.store.origins import Origin

CHUNK_BYTES = (
    2 * 1024 * 1024
)  # of JSON; more in one go than so many, or than 1,000, and it is written to a file

Request = dict[str, Any]


async def make(
    of: Parts,
    key: Key,
    body: dict[str, Any],
    requests: AsyncIterator[Request],
    *,
    origin: Origin | None = None,
    most: int = MAX_ITEMS,
) -> Batch:
    """A batch as a create of `body` makes it, with these requests in place of `requests`: `custom_id` and `input`. They
    are taken apart, as all requests are.

    Raises Invalid with everything that is wrong, at most 100 problems; TooLarge beyond GRISTMILL_UPLOAD_MAX_BYTES.
    """
    async with Upload(of, key.tenant_id) as upload:
        new, content = await read(of, key, upload, body, requests, most=most)
        [batch] = await storing.stored(of, [(replace(new, origin=origin), content)])
        upload.kept()
    return batch


async def read(
    of: Parts,
    key: Key,
    upload: Upload,
    body: dict[str, Any],
    requests: AsyncIterator[Request],
    *,
    most: int = MAX_ITEMS,
) -> tuple[NewBatch, Content]:
    """As `create.new_batch`, for who needs the transaction for more: `upload.kept()` after its commit."""
    chunks = _chunks(requests)
    begun = [chunk async for chunk in _first(chunks, 2)]
    if len(begun) < 2:
        [first] = begun or [_Chunk()]
        async with of.aside.turn(*first.texts, parsed=True) as run:
            return await create.new_batch(of, key, body | {"requests": first.requests}, run)
    checking = _Checking(of, body, most)
    [file_id] = await upload.expect()
    await upload.bring(file_id, checking.lines(_chained(begun, chunks)))
    options = FileOptions(format="jsonl", fail_items=checking.failing)
    laid_out = FromFile(file_id, options, checking.total, owned=True)
    return await create.new_batch(of, key, body, laid_out=laid_out)


class _Chunk:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.texts: list[bytes] = []
        self.size = 0

    def add(self, request: Request) -> None:
        text = orjson.dumps(request)
        self.requests.append(request)
        self.texts.append(text)
        self.size += len(text) + 1

    @property
    def full(self) -> bool:
        return len(self.requests) >= draft.MAX_ITEMS or self.size >= CHUNK_BYTES


async def _chunks(requests: AsyncIterator[Request]) -> AsyncIterator[_Chunk]:
    chunk = _Chunk()
    async for request in requests:
        if chunk.full:
            yield chunk
            chunk = _Chunk()
        chunk.add(request)
    if chunk.requests:
        yield chunk


async def _first(chunks: AsyncIterator[_Chunk], count: int) -> AsyncIterator[_Chunk]:
    for _ in range(count):
        if (chunk := await anext(chunks, None)) is not None:
            yield chunk


async def _chained(begun: list[_Chunk], more: AsyncIterator[_Chunk]) -> AsyncIterator[_Chunk]:
    """Empties the list: what has been written is not kept."""
    while begun:
        yield begun.pop(0)
    async for chunk in more:
        yield chunk


class _Checking:
    """Requests on their way into a file. `failing`: bad ones are left to fail by themselves, if they have a name."""

    def __init__(self, of: Parts, body: dict[str, Any], most: int) -> None:
        self.total = 0
        self.failing = body.get("on_invalid") == "fail_items"
        self._processor = _processor(body)
        self._allow_private = of.settings.allow_private_addresses
        self._most = most
        self._problems: list[Problem] = []
        self._seen: dict[int, int] = {}  # by hash: a number for each request instead of up to 256 characters

    async def lines(self, chunks: AsyncIterator[_Chunk]) -> AsyncIterator[bytes]:
        """Raises Invalid, at the end or when there are 100 problems."""
        async for chunk in chunks:
            await asyncio.to_thread(self._check, chunk.requests)
            self.total += len(chunk.requests)
            if self.total > self._most:
                raise Invalid([Problem("/requests", "too_long", f"at most {self._most:,} requests")])
            if len(self._problems) >= MAX_PROBLEMS:
                break
            yield b"\n".join(chunk.texts) + b"\n"
        if self._problems:
            raise Invalid(self._problems[:MAX_PROBLEMS])

    def _check(self, requests: list[Request]) -> None:
        found = Draft(allow_private=self._allow_private)
        read_requests(requests, self._processor, found, each=PROBLEMS_EACH if self.failing else None)
        items.texts(found)  # says which are too large
        if self.failing:
            found.set_aside()
        self._problems += [_placed(problem, self.total) for problem in found.problems]
        for index, custom_id in enumerate(found.custom_ids, self.total):
            first = self._seen.setdefault(hash(custom_id), index) if type(custom_id) is str else index
            if first < self.total and custom_id:
                at = pointer("requests", index, "custom_id")
                detail = f"the same as in {pointer('requests', first)}"
                self._problems.append(Problem(at, "duplicate_custom_id", detail))


def _processor(body: dict[str, Any]) -> AnyProcessor | None:
    """None: only a stored configuration says. Then inputs are not checked before they are ingested."""
    name = AgentMessage.name if "agent_id" in body else body.get("processor")
    return processors.registry().get(name) if isinstance(name, str) else None


def _placed(problem: Problem, before: int) -> Problem:
    """With the request's number among all of them."""
    index = request_of(problem)
    if index is None or not before:
        return problem
    rest = problem.pointer.removeprefix(pointer("requests", index))
    detail = problem.detail
    if problem.code == "duplicate_custom_id":
        detail = "another request has the same"
    return Problem(pointer("requests", before + index) + rest, problem.code, detail)
