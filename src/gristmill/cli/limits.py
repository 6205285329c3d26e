"""Limits of the whole service, on the command line."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

import typer

from gristmill import processors
from gristmill.cli import secret
from gristmill.cli.database import migrated
from gristmill.cli.operate import operator
from gristmill.cli.refusal import Refusal
from gristmill.db import Database, Transaction
from gristmill.domain import circuits
from gristmill.domain.errors import NotFound
from gristmill.settings import Settings
from gristmill.store import keys, service_limits
from gristmill.store.service_limits import Kind, Limit, Use

_MOST = 10_000  # shown


async def list_(settings: Settings) -> None:
    async with migrated(settings, share=True) as database, database.connection() as connection:
        found, _ = await service_limits.page(connection, limit=_MOST)
    for use in found:
        typer.echo(line(use))
    if not found:
        typer.echo("Nothing is limited.")


async def put(settings: Settings, kind: Kind, name: str, figures: Mapping[str, int | None]) -> None:
    if not any(figures.values()):
        raise Refusal("give --in-flight, --requests or --tokens; `limits remove` takes a limit away")
    if kind != "upstream" and (figures["requests_per_minute"] or figures["tokens_per_minute"]):
        raise Refusal("--requests and --tokens are of an upstream only")
    known_as = _named(settings, kind, name)
    if figures["tokens_per_minute"] and not circuits.of_model(known_as):
        raise Refusal("--tokens is of the model's endpoint only: no other says what a call used")
    async with _operating(settings) as (database, tenant_id), database.transaction() as tx:
        if kind == "processor" and name not in processors.registry():
            await _check_processor(tx, name)
        old = await service_limits.before(tx, kind, known_as)
        limit = await service_limits.put(tx, kind, known_as, **figures)
        await service_limits.note(tx, operator(), tenant_id, old, limit)
    typer.echo(_words(limit))


async def remove(settings: Settings, kind: Kind, name: str) -> None:
    async with _operating(settings) as (database, tenant_id), database.transaction() as tx:
        limit = await service_limits.remove(tx, kind, _named(settings, kind, name))
        await service_limits.note(tx, operator(), tenant_id, limit, None)
    typer.echo("Removed.")


async def _check_processor(tx: Transaction, name: str) -> None:
    if not await service_limits.is_processor(tx, name):
        raise Refusal("no such processor: it is not installed here, and no worker and no live batch has it")


@asynccontextmanager
async def _operating(settings: Settings) -> AsyncIterator[tuple[Database, UUID]]:
    """The database, and the tenant in whose log it is noted."""
    async with migrated(settings, share=True) as database:
        async with database.engine.begin() as connection:
            tenant_id = await keys.ensure_tenant(connection, keys.DEFAULT_TENANT)
        try:
            yield database, tenant_id
        except NotFound as error:
            raise Refusal(error.detail) from None


def _named(settings: Settings, kind: Kind, name: str) -> str:
    if kind != "upstream":
        return name
    found = circuits.named(name, secret.vault(settings).fingerprint)
    if found is None:
        raise Refusal("an upstream is called `model`, or by its URL as configurations name it")
    return found


def line(use: Use) -> str:
    granted = "" if use.granted is None else f", {use.granted} granted"
    return f"{_words(use.limit)}; {use.in_flight} in flight{granted}"


def _words(limit: Limit) -> str:
    figures = {
        "in flight": limit.max_in_flight,
        "requests a minute": limit.requests_per_minute,
        "tokens a minute": limit.tokens_per_minute,
    }
    said = ", ".join(f"{figure:,} {what}" for what, figure in figures.items() if figure is not None)
    return f"{limit.kind} {limit.name}: {said}"
