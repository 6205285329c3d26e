"""The commands and their options. What they do is in the other files of this room, imported when they run."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=(
    "A self-hosted batch-job service for AI work. Settings come from GRISTMILL_… variables."
))  # fmt: skip
keys = typer.Typer(
    no_args_is_help=True, help="API keys. They are stored as digests: a key is shown once, when made."
)
app.add_typer(keys, name="keys")
limits = typer.Typer(
    no_args_is_help=True,
    help="Limits of the whole service: what a tenant, a processor or an endpoint may have in all workers together.",
)
app.add_typer(limits, name="limits")

Url = Annotated[str | None, typer.Option(help="Where the server is; unset: as in the settings.")]
Tenant = Annotated[str, typer.Option(help="Whose key it is; made if there is none of that name.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one.")] = None,
    worker: Annotated[bool, typer.Option(help="Whether to work off items in this process too.")] = True,
) -> None:
    """Serve the API on an embedded Postgres, or on the one of GRISTMILL_DATABASE_URL."""
    from gristmill.cli.configuration import load

    settings = load(
        host=host, port=port
    )  # a mistake in them shows before the imports of a server have been waited for
    from gristmill.cli.serve import serve

    _run(serve(settings, with_worker=worker))


@app.command()
def worker() -> None:
    """Work off items without serving the API. Any number of them, on any host."""
    from gristmill.cli.configuration import load
    from gristmill.cli.serve import work

    _run(work(load()))


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema."""
    from gristmill.cli import operate
    from gristmill.cli.configuration import load

    _run(operate.migrate(load()))


@app.command()
def audit() -> None:
    """Check the invariants of all batches; ends with status 1 if one is violated."""
    from gristmill.cli import operate
    from gristmill.cli.configuration import load

    if not _run(operate.audit(load())):
        raise typer.Exit(1)


@app.command()
def demo(
    exit: Annotated[  # noqa: A002 - the name of the option
        bool, typer.Option("--exit", help="End after the table instead of leaving the server running.")
    ] = False,
) -> None:
    """Show it all: an agent, a batch of questions, a signed webhook. Everything is gone afterwards."""
    from gristmill.cli.configuration import load
    from gristmill.cli.demo import demo

    _run(demo(load(), leave_running=not exit))


@keys.command("create")
def create_key(
    name: str,
    tenant: Tenant = "default",
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times; unset: admin.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="It expires after so many; unset: never.")] = None,
) -> None:
    """Make a key and show it."""
    from gristmill.cli import operate
    from gristmill.cli.configuration import load

    _run(operate.create_key(load(), name=name, tenant=tenant, scopes=scope or ["admin"], days=days))


@keys.command("list")
def list_keys() -> None:
    """Show all keys, without their text."""
    from gristmill.cli import operate
    from gristmill.cli.configuration import load

    _run(operate.list_keys(load()))


@keys.command("revoke")
def revoke_key(key_id: UUID) -> None:
    """Make a key worthless, within five seconds in every process."""
    from gristmill.cli import operate
    from gristmill.cli.configuration import load

    _run(operate.revoke_key(load(), key_id))


@keys.command("log")
def show_log(
    count: Annotated[int, typer.Option(min=1, max=100_000, help="The latest so many.")] = 100,
) -> None:
    """Show who made, rotated and revoked which key, newest first."""
    from gristmill.cli import operate
    from gristmill.cli.configuration import load

    _run(operate.show_acts(load(), count))


LimitKind = Annotated[Literal["tenant", "processor", "upstream"], typer.Argument()]
LimitName = Annotated[
    str, typer.Argument(help="Of the tenant or the processor; of an upstream `model`, or its URL.")
]


@limits.command("list")
def list_limits() -> None:
    """Show all limits, and what is in use."""
    from gristmill.cli import limits
    from gristmill.cli.configuration import load

    _run(limits.list_(load()))


@limits.command("set")
def set_limit(
    kind: LimitKind,
    name: LimitName,
    in_flight: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Items or calls at once.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, max=1_000_000_000, help="A minute; of an upstream.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, max=2_000_000_000, help="Likewise.")] = None,
) -> None:
    """Set a limit in place of the one there was. All workers keep to it within seconds."""
    from gristmill.cli import limits
    from gristmill.cli.configuration import load

    figures = {"max_in_flight": in_flight, "requests_per_minute": requests, "tokens_per_minute": tokens}
    _run(limits.put(load(), kind, name, figures))


@limits.command("remove")
def remove_limit(kind: LimitKind, name: LimitName) -> None:
    """Remove a limit."""
    from gristmill.cli import limits
    from gristmill.cli.configuration import load

    _run(limits.remove(load(), kind, name))


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="JSON Lines, one request each; - for standard input.")],
    agent: Annotated[UUID | None, typer.Option(help="Who answers; must be published.")] = None,
    processor: Annotated[str | None, typer.Option(help="In place of an agent.")] = None,
    config: Annotated[Path | None, typer.Option(help="The processor's configuration, a JSON file.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for the batch.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    url: Url = None,
) -> None:
    """Post a batch to a running server and print its id. The key comes from GRISTMILL_API_KEY."""
    from gristmill.cli import remote
    from gristmill.cli.configuration import load

    with remote.Client(load(), url) as client:
        batch_id = remote.submit(client, file, agent=agent, processor=processor, config=config, name=name)
        typer.echo(batch_id)
        if watch and not remote.watch(client, batch_id):
            raise typer.Exit(1)


@app.command()
def watch(batch_id: UUID, url: Url = None) -> None:
    """Show a batch's progress until it has ended; ends with status 1 unless it completed."""
    from gristmill.cli import remote
    from gristmill.cli.configuration import load

    with remote.Client(load(), url) as client:
        if not remote.watch(client, str(batch_id)):
            raise typer.Exit(1)


@app.command()
def retry(
    batch_id: UUID,
    code: Annotated[
        list[int] | None, typer.Option(help="Only requests that failed with it; several times.")
    ] = None,
    request: Annotated[list[str] | None, typer.Option(help="Only that custom_id; several times.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    url: Url = None,
) -> None:
    """Run the failed requests of an ended batch again."""
    from gristmill.cli import remote
    from gristmill.cli.configuration import load

    with remote.Client(load(), url) as client:
        typer.echo(remote.retry(client, str(batch_id), codes=code, custom_ids=request))
        if watch and not remote.watch(client, str(batch_id)):
            raise typer.Exit(1)


@app.command()
def results(
    batch_id: UUID,
    form: Annotated[Literal["table", "ndjson", "csv"], typer.Option("--format")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    status: Annotated[str | None, typer.Option(help="Only results with this status.")] = None,
    url: Url = None,
) -> None:
    """Print a batch's results, in the order of its requests."""
    from gristmill.cli import remote
    from gristmill.cli.configuration import load
    from gristmill.cli.show import write_table, written

    with remote.Client(load(), url) as client, written(output) as file:
        if form == "table":
            write_table(client.results(str(batch_id), status), file)
        else:
            file.writelines(client.stream(str(batch_id), form, status))


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    import sys

    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)
