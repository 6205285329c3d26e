"""Where the parts are put together: database, vault, network, model, worker, API."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from fastapi import FastAPI

from gristmill import dialects
from gristmill.api.app import create_app
from gristmill.api.births import unleased
from gristmill.cli import secret
from gristmill.cli.database import migrated
from gristmill.cli.refusal import Refusal
from gristmill.db import Database
from gristmill.documents import ParserPool
from gristmill.domain.files import Attachment
from gristmill.domain.outcomes import Turn
from gristmill.net.session import HttpSession
from gristmill.processors.base import Services
from gristmill.processors.table_extraction import TableExtraction
from gristmill.settings import Settings
from gristmill.storage.base import Storage, file_key
from gristmill.storage.opening import open_objects, open_storage
from gristmill.storage.sources import Sources, read_whole
from gristmill.store import chats, collections, files, keys
from gristmill.store.files import File
from gristmill.upstream.client import Upstream
from gristmill.vault import Vault
from gristmill.worker import Worker
from gristmill.worker.bell import Bell
from gristmill.worker.checkpoints import StoredCheckpoints

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    app: FastAPI
    worker: Worker | None
    new_key: str | None  # made just now, to be shown once


@asynccontextmanager
async def service(settings: Settings, *, with_worker: bool) -> AsyncIterator[Service]:
    """The API, and a worker on the same loop if wanted. The worker has to be drained before the block ends."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(migrated(settings, share=False))
        vault = secret.vault(settings)
        http = await stack.enter_async_context(HttpSession(allow_private=settings.allow_private_addresses))
        bell = Bell(database)
        stack.push_async_callback(bell.stop)
        bell.start(listen=with_worker)
        storage = _opened(open_storage, settings)
        worker = None
        if with_worker:
            services = await stack.enter_async_context(_services(settings, database, vault, http, storage))
            worker = Worker(database, settings, services, vault, storage=storage)
        bear = unleased if worker is None else worker.births.of
        app = create_app(database, vault, settings, wake=bell.ring, bear=bear, http=http, storage=storage)
        dialects.install(app)
        new_key = await _default_key(settings, database, vault)
        if worker is not None:
            await _start(worker, bell)
        yield Service(app, worker, new_key)


@asynccontextmanager
async def lone_worker(settings: Settings) -> AsyncIterator[Worker]:
    """A worker without an API, on a database that is already running."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(migrated(settings, share=True))
        vault = secret.vault(settings)
        http = await stack.enter_async_context(HttpSession(allow_private=settings.allow_private_addresses))
        storage = _opened(open_storage, settings)
        services = await stack.enter_async_context(_services(settings, database, vault, http, storage))
        bell = Bell(database)
        stack.push_async_callback(bell.stop)
        bell.start(listen=True)
        yield await _start(Worker(database, settings, services, vault, storage=storage), bell)


async def _start(worker: Worker, bell: Bell) -> Worker:
    bell.listeners.append(worker.wake)
    await worker.start()
    return worker


async def _default_key(settings: Settings, database: Database, vault: Vault) -> str | None:
    configured = settings.api_key.get_secret_value() if settings.api_key else None
    async with database.engine.begin() as connection:
        return await keys.ensure_default(connection, vault, configured)


@asynccontextmanager
async def _services(
    settings: Settings, database: Database, vault: Vault, http: HttpSession, storage: Storage
) -> AsyncIterator[Services]:
    async def turns(tenant_id: UUID, history_id: int) -> Sequence[Turn]:
        async with database.engine.connect() as connection:
            return await chats.turns(connection, tenant_id, history_id)

    async def file(tenant_id: UUID, file_id: UUID) -> File | None:
        async with database.connection() as connection:
            return await files.find(connection, tenant_id, file_id)

    async def filename(tenant_id: UUID, file_id: UUID) -> str | None:
        found = await file(tenant_id, file_id)
        return None if found is None else found.filename

    async def attachment(tenant_id: UUID, file_id: UUID) -> Attachment | None:
        found = await file(tenant_id, file_id)
        data = None if found is None else await read_whole(storage, file_key(tenant_id, file_id))
        if found is None or data is None:
            return None
        return Attachment(found.id, found.filename, found.media_type, data)

    async def forget_tables(tenant_id: UUID, collection: str, file_id: UUID) -> int:
        async with database.transaction() as tx:
            return await collections.forget_outputs(
                tx, tenant_id, collection, str(file_id), TableExtraction.name
            )

    sources = Sources(
        storage,
        http,
        filename,
        max_bytes=settings.upload_max_bytes,
        local_root=settings.local_root,
        objects=_opened(open_objects, settings),
    )
    async with AsyncExitStack() as stack:
        upstream = None
        if settings.llm_base_url is not None:
            upstream = await stack.enter_async_context(_upstream(settings))
        yield Services(
            upstream,
            http,
            turns,
            attachment,
            vault.decrypt,
            sources.open,
            checkpoints=StoredCheckpoints(database),
            parser=await stack.enter_async_context(ParserPool()),
            forget_tables=forget_tables,
        )


def _opened(opening: Callable[[Settings], T], settings: Settings) -> T:
    try:
        return opening(settings)
    except ValueError as error:
        raise Refusal(str(error)) from None


def _upstream(settings: Settings) -> Upstream:
    try:
        return Upstream(settings)
    except ValueError as error:
        raise Refusal(f"GRISTMILL_LLM_BASE_URL: {error}") from None
