"""Tables for people, lines for programs."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gristmill.cli.refusal import Refusal
from gristmill.log import printable
from gristmill.store.acts import Act
from gristmill.store.keys import Key


def show_keys(keys: Iterable[Key]) -> None:
    # The id is for `keys revoke`: whole, however narrow the terminal.
    table = Table(Column("id", no_wrap=True), Column("key", overflow="fold"), show_lines=True)
    for key in keys:
        table.add_row(str(key.id), Text("\n").join(_lines(key)))
    Console().print(table)


def act_lines(acts: Iterable[Act], tenants: Mapping[UUID, str]) -> Iterator[str]:
    """A line each, newest first."""
    for act in acts:
        who = " ".join(filter(None, (act.actor_kind, act.actor_name, act.address and f"from {act.address}")))
        what = f"{act.action} {act.target_id} {act.details.get('name')!r}"
        line = f"{act.at:%Y-%m-%d %H:%M:%S}Z {what} of tenant {tenants.get(act.tenant_id)!r}, by {who}"
        yield printable(line)


def _lines(key: Key) -> Iterator[Text]:
    state = "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "valid"
    yield Text.assemble(_text(key.name), " of tenant ", _text(key.tenant))
    yield Text(f"{key.prefix}…{key.last_four}, made {key.created_at:%Y-%m-%d}, {state}")
    yield Text(", ".join(sorted(key.scopes)))


def results_table(results: Iterable[dict[str, Any]], names: dict[str, str] | None = None) -> Table:
    """`names` say what was asked, by custom_id."""
    table = Table("request", "status", "answer")
    for result in results:
        custom_id = str(result["custom_id"])
        answer = result["response_content"] or result["error_message"] or ""
        table.add_row(_text((names or {}).get(custom_id, custom_id)), result["status"], _text(answer.strip()))
    return table


def _text(foreign: str) -> Text:
    """What a caller or a model wrote: no markup of ours, and nothing that steers the terminal."""
    return Text("\n".join(printable(line) for line in foreign.splitlines()))


@contextmanager
def written(output: Path | None) -> Iterator[IO[bytes]]:
    """Where results go. Raises Refusal."""
    try:
        with output.open("wb") if output else nullcontext(sys.stdout.buffer) as file:
            yield file
            file.flush()
    except OSError as error:
        raise Refusal(f"cannot write {output or 'standard output'}: {error.strerror}") from None


def write_table(results: Iterable[dict[str, Any]], file: IO[bytes]) -> None:
    text = TextIOWrapper(file, encoding="utf-8", write_through=True)
    Console(file=text).print(results_table(results))
    text.detach()
