"""The ASGI application: routes, errors, and what they work with."""

import asyncio
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute

from gristmill.api import (
    acts,
    agents,
    batches,
    chats,
    configurations,
    deliveries,
    directories,
    docs,
    dry_run,
    errors,
    events,
    files,
    health,
    keys,
    limits,
    links,
    processors,
    results,
    retry,
    tasks,
)
from gristmill.api.births import Bear, unleased
from gristmill.api.front import Front
from gristmill.api.keyring import KeyRing
from gristmill.api.parts import Parts
from gristmill.api.queue_depth import QueueDepth
from gristmill.api.rates import Rates
from gristmill.api.reads import Reads
from gristmill.api.room import Room
from gristmill.api.routes import Routes
from gristmill.api.tokens import Tokens
from gristmill.api.watch import Watch
from gristmill.db import Database
from gristmill.domain.news import Wake
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.base import Storage
from gristmill.vault import Vault

_ROUTERS = (
    agents, configurations, files, links, directories, results, events, deliveries, dry_run, retry, batches, tasks, chats,
    processors, keys, limits, acts, health, docs,
)  # fmt: skip


def create_app(
    database: Database,
    vault: Vault,
    settings: Settings,
    *,
    wake: Wake,
    bear: Bear = unleased,
    http: HttpSession,
    storage: Storage,
) -> FastAPI:
    """`wake` is called after each commit that made work; it may do nothing where the worker is another process."""
    app = FastAPI(
        title="Gristmill",
        version=version("gristmill"),
        description=docs.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # its Location would come from the Host header
        generate_unique_id_function=_operation_id,
    )
    app.state.parts = Parts(
        database=database,
        vault=vault,
        settings=settings,
        wake=wake,
        bear=bear,
        http=http,
        storage=storage,
        keys=KeyRing(database, vault),
        tokens=Tokens.of(database, settings),
        watch=Watch(database),
        reads=Reads(database),
        rates=Rates(settings.tenant_requests_per_minute),
        room=Room(settings.bodies_max_bytes),
        depth=QueueDepth(database),
        draining=asyncio.Event(),
    )
    app.state.routes = Routes(room.router for room in _ROUTERS)
    for room in _ROUTERS:
        app.include_router(room.router)
    errors.install(app)
    app.add_middleware(Front)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
