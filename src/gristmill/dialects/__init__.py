"""Other systems' wire shapes on the same rows: each dialect a folder here and a line below, and no rules of its own.

A dialect reads a foreign request, hands it to the room `api` as a create, a file or a transition of ours, and writes what
came of it in the foreign words. What it cannot express it leaves out; what the canonical API lacks is added there first.
What works and what differs: docs/dialects.md.
"""

from fastapi import FastAPI

from gristmill.api import errors
from gristmill.dialects import anthropic, koosearch, llamacloud, nexent, openai, tagging
from gristmill.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (
    anthropic.DIALECT,
    koosearch.DIALECT,
    llamacloud.DIALECT,
    nexent.DIALECT,
    openai.DIALECT,
    tagging.DIALECT,
)


def install(app: FastAPI) -> None:
    """The routes of every dialect, and its shape for what is refused under its paths."""
    for dialect in DIALECTS:
        app.include_router(dialect.router)
        app.state.routes.add(dialect.router)
        errors.shape(app, dialect.paths, dialect.refused)
