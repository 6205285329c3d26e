"""Tables for people, lines for programs."""

import csv
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, Literal

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gristmill.cli.refusal import Refusal
from gristmill.log import printable
from gristmill.store.keys import Key

COLUMNS = ("custom_id", "status", "response_content", "error_code", "error_message", "processed_at")


def show_keys(keys: Iterable[Key]) -> None:
    table = Table("id", "tenant", "name", "key", "scopes", "made", "state")
    for key in keys:
        state = (
            "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "valid"
        )
        shown = f"{key.prefix}…{key.last_four}"
        scopes = ", ".join(sorted(key.scopes))
        table.add_row(
            str(key.id),
            _text(key.tenant),
            _text(key.name),
            shown,
            scopes,
            f"{key.created_at:%Y-%m-%d}",
            state,
        )
    Console().print(table)


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


def write_results(
    results: Iterable[dict[str, Any]], form: Literal["table", "ndjson", "csv"], output: Path | None
) -> None:
    try:
        with output.open("w", encoding="utf-8", newline="") if output else nullcontext(sys.stdout) as file:
            _write(results, form, file)
    except OSError as error:
        raise Refusal(f"cannot write {output or 'standard output'}: {error.strerror}") from None


def _write(results: Iterable[dict[str, Any]], form: str, file: IO[str]) -> None:
    if form == "table":
        Console(file=file).print(results_table(results))
    elif form == "ndjson":
        file.writelines(orjson.dumps(result).decode() + "\n" for result in results)
    else:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)
