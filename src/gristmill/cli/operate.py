"""What an operator does beside the running service: the schema, the keys, the audit."""

import getpass
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import typer

from gristmill.cli import secret
from gristmill.cli.database import migrated, opened
from gristmill.cli.refusal import Refusal
from gristmill.settings import Settings
from gristmill.store import acts, keys, schema
from gristmill.store import audit as rules
from gristmill.store.acts import Actor


async def migrate(settings: Settings) -> None:
    async with opened(settings, share=True) as database:
        await schema.migrate(database)
    typer.echo("The database is at this version's schema.")


async def audit(settings: Settings) -> bool:
    """Whether all is well."""
    async with opened(settings, share=True) as database, database.connection() as connection:
        violations = await rules.audit(connection)
    for violation in violations:
        typer.echo(f"{violation.batch_id}: {violation.rule}")
    typer.echo(f"{len(violations)} violations" if violations else "All invariants hold.")
    return not violations


async def create_key(
    settings: Settings, *, name: str, tenant: str, scopes: Sequence[str], days: int | None
) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    async with migrated(settings, share=True) as database, database.engine.begin() as connection:
        vault = secret.vault(settings)
        tenant_id = await keys.ensure_tenant(connection, tenant)
        try:
            key, plain = await keys.create(
                connection, vault, tenant_id, name=name, scopes=scopes, expires_at=expires_at
            )
        except ValueError as error:
            raise Refusal(str(error)) from None
        await acts.note(connection, operator(), "api_key.created", key, expires_in_days=days)
    typer.echo(f"{key.id}: {', '.join(sorted(key.scopes))} of tenant {tenant}", err=True)
    typer.echo(plain)


async def list_keys(settings: Settings) -> None:
    from gristmill.cli.show import show_keys

    async with migrated(settings, share=True) as database, database.engine.connect() as connection:
        show_keys(await keys.list_(connection))


async def revoke_key(settings: Settings, key_id: UUID) -> None:
    async with migrated(settings, share=True) as database, database.engine.begin() as connection:
        if not await keys.revoke(connection, None, key_id):
            raise Refusal("there is no such key, or it was revoked before")
        await acts.note(connection, operator(), "api_key.revoked", await keys.get(connection, None, key_id))
    typer.echo("Revoked.")


async def show_acts(settings: Settings, count: int) -> None:
    from gristmill.cli.show import act_lines

    async with migrated(settings, share=True) as database, database.engine.connect() as connection:
        latest, _ = await acts.page(connection, None, limit=count)
        tenants = await keys.tenants(connection)
    for line in act_lines(latest, tenants):
        typer.echo(line)


def operator() -> Actor:
    """Whom this process runs as, and where."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        name = None
    return Actor("command_line", name=name, address=os.uname().nodename if hasattr(os, "uname") else None)
