"""`gristmill`, and `python -m gristmill`."""

import os
import sys
from typing import Never

import typer

from gristmill.cli.commands import app
from gristmill.cli.refusal import Refusal


def main() -> None:
    try:
        app(prog_name="gristmill")
    except Refusal as refusal:
        typer.echo(f"gristmill: {refusal}", err=True)
        sys.exit(1)


def command() -> None:
    """The console script."""
    try:
        main()
    except SystemExit as left:
        leave(left.code)
    leave(0)


def leave(status: str | int | None) -> Never:
    """End the process; all that has to be closed is closed by now.

    The runtime of obstore (extra `s3`) has threads that may still call into an interpreter that is going away: that
    aborts the process (SIGABRT, in about one of three runs). So it leaves without taking the interpreter apart.
    """
    if "obstore" not in sys.modules:
        sys.exit(status)
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    command()
