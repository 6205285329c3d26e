"""`gristmill`, and `python -m gristmill`."""

import sys

import typer

from gristmill.cli.commands import app
from gristmill.cli.refusal import Refusal


def main() -> None:
    try:
        app(prog_name="gristmill")
    except Refusal as refusal:
        typer.echo(f"gristmill: {refusal}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
