"""Ingests: a batch's file is read into its items, in one transaction that nobody sees before it has committed."""

import asyncio
import logging
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.db import Database
from gristmill.domain.errors import Problem
from gristmill.domain.sources import BatchSource, FileSource, SourceRefused
from gristmill.intake.ingest import BadSource, Reading, repeated
from gristmill.intake.source import FileOptions, NotReadable
from gristmill.processors.agent_message import AgentMessage, AgentMessageConfig
from gristmill.processors.base import Processor, Services
from gristmill.store import ingests, new_batches
from gristmill.store.ingests import Ingest
from gristmill.store.new_batches import NewItem

MOST_ATTEMPTS = 10  # to reach the storage, some minutes in all
POSTPONE_SECONDS = 15.0
LONGEST_SECONDS = 3600.0  # for 1,000,000 records and 2 GB on a slow machine

log = logging.getLogger(__name__)


class Ingests:
    """`lease_seconds`: after that long without a sign of life, another process begins anew."""

    def __init__(
        self,
        database: Database,
        services: Services,
        processors: Mapping[str, Processor[Any, Any]],
        *,
        lease_seconds: float,
        allow_private: bool,
        done: Callable[[], None],
    ) -> None:
        self._database = database
        self._services = services
        self._processors = processors
        self._lease_seconds = lease_seconds
        self._allow_private = allow_private
        self._done = done  # called when a batch can start

    async def step(self) -> int:
        """Ingest one batch, if one waits; answers whether it did."""
        async with self._database.connection() as connection:
            ingest = await ingests.claim(connection, self._lease_seconds, list(self._processors))
        if ingest is None:
            return 0
        try:
            await self._ingest(ingest)
        except (BadSource, NotReadable) as bad:
            await self._refuse(ingest, bad.problems)
        except SourceRefused as refused:
            await self._put_off(ingest, refused)
        except asyncio.CancelledError:
            await self._postpone(ingest, 0)
            raise
        self._done()
        return 1

    async def _ingest(self, ingest: Ingest) -> None:
        """Raises BadSource, NotReadable, SourceRefused."""
        kind = BatchSource if ingest.owned else FileSource
        async with self._services.open_source(ingest.tenant_id, kind(ingest.file_id)) as source:
            try:
                async with self._alive(ingest):
                    done = await self._store(ingest, source.path)
            except asyncpg.UniqueViolationError:
                raise BadSource(await self._collisions(ingest, source.path)) from None
        extra = {"batch_id": str(ingest.batch_id), "items": ingest.total}
        log.info("ingested" if done else "another process has ingested", extra=extra)

    async def _store(self, ingest: Ingest, path: Path) -> bool:
        reading = self._reading(ingest)
        stored, failed = 0, array("I")
        async with self._database.transaction(longest_seconds=LONGEST_SECONDS) as tx:
            async with aclosing(_ahead(reading.items(path))) as chunks:
                async for items in chunks:
                    await new_batches.add_items(tx, ingest.batch_id, stored, items)
                    failed.extend(n for n, item in enumerate(items, stored) if item.error is not None)
                    stored += len(items)
            if stored != ingest.total:
                detail = f"the file has {stored} requests where {ingest.total} were counted"
                raise BadSource([Problem("/source/file_id", "wrong_count", detail)])
            config = None if reading.agents is None else reading.agents.model_dump_json()
            return await ingests.complete(tx, ingest, failed=failed, config=config)

    def _reading(self, ingest: Ingest) -> Reading:
        agents = None
        if ingest.processor == AgentMessage.name:
            agents = AgentMessageConfig.model_validate_json(ingest.config)
        return Reading(
            self._database,
            ingest.tenant_id,
            FileOptions.model_validate_json(ingest.options),
            self._processors[ingest.processor],
            agents,
            allow_private=self._allow_private,
        )

    async def _collisions(self, ingest: Ingest, path: Path) -> list[Problem]:
        """Two records have one custom id, or another process has stored them all meanwhile: then there is none."""
        options = FileOptions.model_validate_json(ingest.options)
        model = self._processors[ingest.processor].input_model
        return await asyncio.to_thread(lambda: repeated(options.rows(path, model)))

    @asynccontextmanager
    async def _alive(self, ingest: Ingest) -> AsyncIterator[None]:
        """The lease is extended for the time of the block."""
        task = asyncio.create_task(self._extend(ingest))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _extend(self, ingest: Ingest) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                async with self._database.transaction(durable=False) as tx:
                    await ingests.extend(tx, ingest, self._lease_seconds)
            except Exception as error:  # the next time may work; if none does, another process takes over
                log.warning("ingest lease not extended", extra={"error": type(error).__name__})

    async def _refuse(self, ingest: Ingest, problems: list[Problem]) -> None:
        async with self._database.transaction() as tx:
            refused = await ingests.refuse(tx, ingest, problems)
        if refused:
            log.info("source refused", extra={"batch_id": str(ingest.batch_id), "problems": len(problems)})

    async def _put_off(self, ingest: Ingest, refused: SourceRefused) -> None:
        if not refused.retryable or ingest.attempt >= MOST_ATTEMPTS:
            await self._refuse(ingest, [Problem("/source/file_id", refused.code, refused.message)])
            return
        await self._postpone(ingest, POSTPONE_SECONDS)
        log.warning(
            "source not to be had now", extra={"batch_id": str(ingest.batch_id), "code": refused.code}
        )

    async def _postpone(self, ingest: Ingest, seconds: float) -> None:
        """Nobody takes it up before so many seconds have passed."""
        async with self._database.transaction() as tx:
            await ingests.extend(tx, ingest, seconds)


async def _ahead(chunks: AsyncIterator[list[NewItem]]) -> AsyncGenerator[list[NewItem], None]:
    """The same; while one is being stored, the next is read and checked: Postgres and this process work side by side."""
    coming = asyncio.ensure_future(anext(chunks, None))
    try:
        while (chunk := await coming) is not None:
            coming = asyncio.ensure_future(anext(chunks, None))
            yield chunk
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
