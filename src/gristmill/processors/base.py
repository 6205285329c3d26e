"""What a processor is: a model of its inputs, one of its configuration, and an async function to an outcome.

Third parties write one class like this and name it in the entry-point group `gristmill.processors`
(docs/processors.md has a worked example).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel

from gristmill.documents import ParserPool
from gristmill.domain import circuits
from gristmill.domain.checkpoints import MAX_BYTES, Checkpoint, CheckpointTooLarge, LeaseLost
from gristmill.domain.files import Attachment as Attachment
from gristmill.domain.outcomes import Outcome, Turn
from gristmill.domain.retry import RetryPolicy
from gristmill.domain.sources import OpenSource, Source, SourceRefused
from gristmill.domain.states import ItemStatus
from gristmill.net.session import HttpSession
from gristmill.upstream.circuit import Circuit
from gristmill.upstream.client import Upstream

Input = TypeVar("Input", bound=BaseModel)
Config = TypeVar("Config", bound=BaseModel)


class Checkpoints(Protocol):
    """Where checkpoints are kept. Raises CheckpointsAway; False: the lease is another worker's by now."""

    async def load(self, batch_id: UUID, ordinal: int) -> Checkpoint | None: ...

    async def save(self, lease_id: int, batch_id: UUID, ordinal: int, checkpoint: Checkpoint) -> bool: ...

    async def advance(self, lease_id: int, batch_id: UUID, ordinal: int, done: int) -> bool: ...


def no_sources(tenant_id: UUID, source: Source) -> AbstractAsyncContextManager[OpenSource]:
    """For services that read no documents."""
    raise SourceRefused("source_refused", "No documents can be read here.")


async def no_tables(tenant_id: UUID, collection: str, file_id: UUID) -> int:
    """For services that keep no results."""
    return 0


@dataclass(frozen=True, slots=True)
class Services:
    """What the worker hands to processors: their only way to chats, files, the model and the network."""

    upstream: Upstream | None  # None: no endpoint is configured
    http: HttpSession  # every call out goes through its address guard
    turns: Callable[
        [UUID, int], Awaitable[Sequence[Turn]]
    ]  # (tenant, history_id) → the chat so far, oldest first
    attachment: Callable[[UUID, UUID], Awaitable[Attachment | None]]  # (tenant, file id)
    decrypt: Callable[[bytes, str], bytes]  # (ciphertext, what it is bound to)
    # (tenant, source) → the document on this host's disk for the time of an `async with`; raises SourceRefused
    open_source: Callable[[UUID, Source], AbstractAsyncContextManager[OpenSource]] = no_sources
    checkpoints: Checkpoints | None = None  # None: every attempt begins at the beginning
    parser: ParserPool | None = None  # reads documents, in child processes
    circuit: Circuit | None = None  # of what the batch's items call; `upstream` goes through it by itself
    # (tenant, collection, file) → of how many extractions the stored tables are gone by now
    forget_tables: Callable[[UUID, str, UUID], Awaitable[int]] = no_tables


@dataclass(slots=True)  # not frozen: that would cost 1 µs an item
class Context(Generic[Config]):
    """Where an input comes from. `idempotency_key` is the same on every attempt: for whom it helps."""

    tenant_id: UUID
    batch_id: UUID
    ordinal: int
    custom_id: str
    attempt: int  # 1-based
    config: Config
    services: Services
    lease_id: int | None = None  # set for processors that use checkpoints

    @property
    def idempotency_key(self) -> str:
        return f"{self.batch_id}:{self.ordinal}"

    async def checkpoint(self) -> Checkpoint | None:
        """What an earlier attempt saved; None: there is none. Costs a read, so ask once, at the beginning."""
        kept = self._checkpoints()
        return await kept.load(self.batch_id, self.ordinal) if kept else None

    async def save(
        self, stage: str, data: str | None = None, *, done: int = 0, total: int | None = None
    ) -> None:
        """Keep this in place of what was saved before, in a small transaction of its own.

        Let its exceptions through: the worker knows what follows from each. Raises CheckpointTooLarge, LeaseLost,
        CheckpointsAway.
        """
        if data is not None and len(data.encode()) > MAX_BYTES:
            raise CheckpointTooLarge
        kept, saved = self._checkpoints(), Checkpoint(stage, data, done, total)
        if kept and not await kept.save(self._lease(), self.batch_id, self.ordinal, saved):
            raise LeaseLost

    async def advance(self, done: int) -> None:
        """Keep that `done` parts of the saved stage are behind the item. Raises as `save` does."""
        kept = self._checkpoints()
        if kept and not await kept.advance(self._lease(), self.batch_id, self.ordinal, done):
            raise LeaseLost

    def _checkpoints(self) -> Checkpoints | None:
        return self.services.checkpoints

    def _lease(self) -> int:
        if self.lease_id is None:
            raise TypeError("a processor that saves checkpoints declares uses_checkpoints = True")
        return self.lease_id


class Processor(ABC, Generic[Input, Config]):
    """One kind of work. An instance holds no state between items and is shared by all of them.

    `run` may take as long as the item's timeout; no transaction is open meanwhile. What it raises becomes a
    permanent failure (500, `processor_error`): to ask for another attempt it returns `Retry`.
    """

    name: ClassVar[str]
    description: ClassVar[str] = ""
    input_model: type[Input]
    config_model: type[Config]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # its own configurations: `cfg-<NAME>` → config
    retry: RetryPolicy = RetryPolicy()
    uses_upstream: ClassVar[bool] = False  # its items in flight are bounded by GRISTMILL_LLM_CONCURRENCY
    uses_parser: ClassVar[bool] = (
        False  # its items in flight are bounded, as few documents are read at a time
    )
    uses_checkpoints: ClassVar[bool] = False  # it may call context.save; results show the stages of its items

    @abstractmethod
    async def run(self, given: Input, context: Context[Config]) -> Outcome: ...

    def depends_on(self, config: Config) -> str | None:
        """What the items call under this configuration: MODEL, the URL of another endpoint, or None for nobody. While it is
        down, none of them starts (upstream/circuit.py). Pure."""
        return circuits.MODEL if self.uses_upstream else None

    def history_id(self, given: Input) -> int | None:
        """The chat this item continues, if any: no other item of that chat runs at the same time."""
        return None

    @property
    def has_chats(self) -> bool:
        """Whether its items may continue chats: whether it says which."""
        return type(self).history_id is not Processor.history_id

    def stage(self, status: ItemStatus, saved: str | None) -> str | None:
        """The stage that results show of an item, from its status and the stage it saved, if any. Pure."""
        return saved

    def item_name(self, given: Input) -> str | None:
        """What lists of tasks call the item and find it by, such as the name of its file; cut to 255 characters."""
        return None

    @property
    def has_names(self) -> bool:
        """Whether its items may have names: whether it says which."""
        return type(self).item_name is not Processor.item_name
