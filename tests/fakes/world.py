"""What a processor is handed: real upstream, guarded session and vault; chats and files from memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretStr

from fakes.llm import FakeLLM
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.files import Attachment
from gristmill.domain.outcomes import Outcome, Turn
from gristmill.net.session import HttpSession
from gristmill.processors.base import Context, Processor, Services
from gristmill.settings import Settings
from gristmill.upstream.client import Upstream
from gristmill.vault import Vault

TENANT = UUID(int=7)
KEY = "sk-the-operators-own-key"


@dataclass
class Kept:
    """Checkpoints in memory; the worker's are in tests/worker."""

    saves: list[Checkpoint] = field(default_factory=list)

    async def load(self, batch_id: UUID, ordinal: int) -> Checkpoint | None:
        return self.saves[-1] if self.saves else None

    async def save(self, lease_id: int, batch_id: UUID, ordinal: int, checkpoint: Checkpoint) -> bool:
        self.saves.append(checkpoint)
        return True

    async def advance(self, lease_id: int, batch_id: UUID, ordinal: int, done: int) -> bool:
        raise NotImplementedError


@dataclass
class World:
    """Everything outside a processor."""

    llm: FakeLLM
    services: Services
    vault: Vault
    chats: dict[int, list[Turn]] = field(default_factory=dict)
    files: dict[UUID, Attachment] = field(default_factory=dict)

    def attach(self, data: bytes, media_type: str = "text/plain", filename: str = "notes.txt") -> UUID:
        identifier = uuid4()
        self.files[identifier] = Attachment(identifier, filename, media_type, data)
        return identifier

    async def run(
        self, processor: Processor[Any, Any], given: Any, config: Any, services: Services | None = None
    ) -> Outcome:
        context = Context(TENANT, UUID(int=1), 3, "item-3", 1, config, services or self.services, 1)
        return await processor.run(processor.input_model.model_validate(given), context)


@asynccontextmanager
async def open_world(llm: FakeLLM) -> AsyncIterator[World]:
    settings = Settings(
        llm_base_url=llm.url,
        llm_api_key=SecretStr(KEY),
        llm_model="default-model",
        llm_timeout_seconds=5,
        llm_price_prompt=1.0,
        llm_price_completion=2.0,
    )
    vault = Vault(b"0123456789abcdef0123456789abcdef")
    async with Upstream(settings) as upstream, HttpSession(allow_private=True) as http:
        # The functions that the worker makes from `store`: nothing of another tenant is found.
        async def turns(tenant_id: UUID, history_id: int) -> list[Turn]:
            return world.chats.get(history_id, []) if tenant_id == TENANT else []

        async def attachment(tenant_id: UUID, file_id: UUID) -> Attachment | None:
            return world.files.get(file_id) if tenant_id == TENANT else None

        world = World(llm, Services(upstream, http, turns, attachment, vault.decrypt), vault)
        yield world
