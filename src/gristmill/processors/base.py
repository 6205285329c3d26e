"""What a processor is: a model of its inputs, one of its configuration, and an async function to an outcome.

Third parties write one class like this and name it in the entry-point group `gristmill.processors`
(docs/processors.md has a worked example).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from gristmill.domain.files import Attachment as Attachment
from gristmill.domain.outcomes import Outcome, Turn
from gristmill.domain.retry import RetryPolicy
from gristmill.net.session import HttpSession
from gristmill.upstream.client import Upstream

Input = TypeVar("Input", bound=BaseModel)
Config = TypeVar("Config", bound=BaseModel)


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

    @property
    def idempotency_key(self) -> str:
        return f"{self.batch_id}:{self.ordinal}"


class Processor(ABC, Generic[Input, Config]):
    """One kind of work. An instance holds no state between items and is shared by all of them.

    `run` may take as long as the item's timeout; no transaction is open meanwhile. What it raises becomes a
    permanent failure (500, `processor_error`): to ask for another attempt it returns `Retry`.
    """

    name: ClassVar[str]
    description: ClassVar[str] = ""
    input_model: type[Input]
    config_model: type[Config]
    retry: RetryPolicy = RetryPolicy()
    uses_upstream: ClassVar[bool] = False  # its items in flight are bounded by GRISTMILL_LLM_CONCURRENCY

    @abstractmethod
    async def run(self, given: Input, context: Context[Config]) -> Outcome: ...

    def history_id(self, given: Input) -> int | None:
        """The chat this item continues, if any: no other item of that chat runs at the same time."""
        return None

    def item_name(self, given: Input) -> str | None:
        """What lists of tasks call the item and find it by, such as the name of its file; cut to 255 characters."""
        return None
