"""A whole worker on the test's own loop, with a processor that does what its input says."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from uuid import UUID

import orjson
from pydantic import BaseModel

from factories import TENANT, get
from gristmill.db import Database
from gristmill.domain.outcomes import Failure, ItemError, Outcome, Retry, Success, Turn
from gristmill.domain.states import TERMINAL
from gristmill.metrics import REGISTRY
from gristmill.net.session import HttpSession
from gristmill.processors.base import Context, Processor, Services
from gristmill.settings import Settings
from gristmill.storage.local import LocalStorage
from gristmill.store.new_batches import NewItem
from gristmill.upstream.client import Upstream
from gristmill.vault import Vault
from gristmill.worker import Worker
from gristmill.worker.checkpoints import StoredCheckpoints

VAULT = Vault(b"a secret key for tests, 32 bytes")


class Script(BaseModel):
    do: Literal[
        "succeed", "fail", "retry", "wait", "raise", "hang", "gate", "say", "garble", "resist", "panic",
        "number", "nothing", "shapeless", "endless_usage",
    ] = "succeed"  # fmt: skip
    times: int = 1  # retry, wait: so many times before success
    history_id: int | None = None
    text: str = ""


def script(*steps: dict[str, Any]) -> list[NewItem]:
    return [
        NewItem(f"item-{n}", orjson.dumps(step).decode(), step.get("history_id"))
        for n, step in enumerate(steps)
    ]


class NoConfig(BaseModel):
    pass


class Panic(BaseException):
    """As a library in another language raises it."""


class Scripted(Processor[Script, NoConfig]):
    """Counts its runs by ordinal; `gate` items wait until the test opens the gate."""

    name = "noop"
    input_model = Script
    config_model = NoConfig

    def __init__(self) -> None:
        self.runs: Counter[tuple[Any, int]] = Counter()
        self.gate = asyncio.Event()
        self.at_gate = 0
        self.started: list[int] = []

    def history_id(self, given: Script) -> int | None:
        return given.history_id

    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        key = (context.batch_id, context.ordinal)
        self.runs[key] += 1
        self.started.append(context.ordinal)
        outcomes: dict[str, Callable[[], Awaitable[Outcome]]] = {
            "hang": self._hang,
            "gate": self._wait_at_gate,
            "raise": self._raise,
            "resist": self._resist,
            "panic": self._panic,
        }
        if given.do in outcomes:
            return await outcomes[given.do]()
        error = ItemError(500, "scripted", "as asked", retryable=True)
        if given.do == "fail":
            return Failure(error)
        if given.do in {"retry", "wait"} and self.runs[key] <= given.times:
            return Retry(error, delay_seconds=0.0, waiting=given.do == "wait")
        if given.do in _NONSENSE:
            return cast("Outcome", _NONSENSE[given.do])
        if given.do == "garble":
            return Success(content="nul \x00 and a lone surrogate \ud800")
        if given.do == "say":
            reply = f"reply to {given.text}"
            return Success(content=reply, turn=Turn(given.text, reply, given.history_id))
        return Success(output={"text": given.text})

    async def _hang(self) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    async def _resist(self) -> Outcome:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return Success(output="ended in spite of it")

    async def _wait_at_gate(self) -> Outcome:
        self.at_gate += 1
        try:
            await self.gate.wait()
        finally:
            self.at_gate -= 1
        return Success(output="passed")

    async def _raise(self) -> Outcome:
        raise RuntimeError("a secret of the input")

    async def _panic(self) -> Outcome:
        raise Panic


# What no processor should answer, and what one of somebody else's will.
_NONSENSE: dict[str, object] = {
    "number": Failure(ItemError(429, "busy", "a number of its own")),  # type: ignore[arg-type]
    "nothing": None,
    "shapeless": Success(content=5),  # type: ignore[arg-type]
    "endless_usage": Failure(ItemError(500, "scripted", "as asked"), usage="a lot"),  # type: ignore[arg-type]
}


def quick(**more: Any) -> Settings:
    defaults: dict[str, Any] = {
        "lease_seconds": 3.0,
        "poll_seconds": 0.05,
        "concurrency": 32,
        "drain_seconds": 5.0,
    }
    return Settings(**(defaults | more))


@asynccontextmanager
async def working(
    database: Database,
    processor: Processor[Any, Any],
    *others: Processor[Any, Any],
    upstream: Upstream | None = None,
    **settings: Any,
) -> AsyncIterator[Worker]:
    """A worker that drains at the end of the block."""
    chosen = quick(**settings)
    async with HttpSession(allow_private=True) as http:
        services = Services(
            upstream, http, _no_turns, _no_attachment, VAULT.decrypt, checkpoints=StoredCheckpoints(database)
        )
        storage = LocalStorage(chosen.data_dir)
        registry = {one.name: one for one in (processor, *others)}
        worker = Worker(database, chosen, services, VAULT, registry, storage=storage)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.drain(chosen.drain_seconds)


async def _no_turns(*_: Any) -> list[Turn]:
    return []


async def _no_attachment(*_: Any) -> None:
    return None


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Until the condition holds; fails the test after the time."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def ended(database: Database, *batch_ids: UUID, tenant_id: UUID = TENANT) -> None:
    async def all_are() -> bool:
        return all([(await get(database, one, tenant_id)).status in TERMINAL for one in batch_ids])

    await eventually(all_are, 90)


async def at_gate(scripted: Scripted, count: int) -> None:
    async def there() -> bool:
        return scripted.at_gate == count

    await eventually(there)


async def looked() -> None:
    """The worker has taken another step of its claiming."""

    def at() -> float:
        name, labels = "gristmill_loop_last_step_timestamp_seconds", {"loop": "items"}
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = at()

    async def later() -> bool:
        return at() > before

    await eventually(later)
