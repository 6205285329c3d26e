"""What reading all of a source says, without storing any of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from gristmill import processors
from gristmill.api.parts import Parts
from gristmill.api.sources import FromDirectory, FromFile
from gristmill.domain.errors import NotFound, Problem
from gristmill.intake import cycles
from gristmill.intake.ingest import BadSource, Reading, repeated
from gristmill.intake.problems import MAX_PROBLEMS
from gristmill.intake.source import NotReadable
from gristmill.processors.agent_message import AgentMessage, AgentMessageConfig
from gristmill.storage.base import Missing, file_key
from gristmill.store import directories
from gristmill.store.new_batches import NewBatch


@dataclass(frozen=True, slots=True)
class Survey:
    """`characters` and `size` (bytes) are of the inputs as JSON; None where something is wrong with one."""

    valid: bool
    total: int
    problems: Sequence[Problem] = ()
    characters: int | None = None
    size: int | None = None

    @property
    def invalid(self) -> int:
        """Records among those that the problems name."""
        return len({one.pointer.split("/")[2] for one in self.problems if one.pointer.startswith("/lines/")})


async def of_directory(of: Parts, tenant_id: UUID, content: FromDirectory) -> Survey:
    """The files themselves are not opened. Raises NotFound if it was deleted meanwhile."""
    async with of.database.engine.connect() as connection:
        found = await directories.get(connection, tenant_id, content.directory_id)
    return Survey(valid=True, total=found.files)


async def of_file(of: Parts, new: NewBatch, content: FromFile) -> Survey:
    """Takes as long as an ingest: some 10 s for 1,000,000 records."""
    try:
        async with of.storage.local(file_key(new.tenant_id, content.file_id)) as path:
            return await _read(of, new, content, path)
    except Missing:
        raise NotFound("the bytes of this file are not in the storage") from None


async def _read(of: Parts, new: NewBatch, content: FromFile, path: Path) -> Survey:
    options = content.options.model_copy(update={"fail_items": False})
    processor = processors.get(new.processor)
    agents = None
    if processor.name == AgentMessage.name:
        agents = AgentMessageConfig.model_validate_json(new.config)
    open_for = of.settings.allow_private_addresses
    reading = Reading(of.database, new.tenant_id, options, processor, agents, allow_private=open_for)
    characters = size = 0
    try:
        async for items in reading.items(path):
            characters += sum(len(one.input) for one in items)
            size += sum(len(one.input.encode()) for one in items)
        with cycles.left_alone():  # a record of many parts would keep all others waiting
            again = await asyncio.to_thread(lambda: repeated(options.rows(path, processor.input_model)))
        if again:
            raise BadSource(again)
    except (BadSource, NotReadable) as bad:
        return Survey(_bearable(content, bad.problems), content.total, bad.problems[:MAX_PROBLEMS])
    return Survey(True, content.total, characters=characters, size=size)


def _bearable(content: FromFile, problems: Sequence[Problem]) -> bool:
    """Whether a create takes such records along as failed ones: all that can be told apart by a custom id."""
    return content.options.fail_items and not any(one.pointer.endswith("/custom_id") for one in problems)
