"""One record of an uploaded file, as it would stand in `requests`."""

from dataclasses import dataclass
from typing import Any

from gristmill.domain.errors import Problem
from gristmill.intake.problems import pointer

MAX_LINE_BYTES = 1024 * 1024 + 4096  # an item and what stands around it


@dataclass(slots=True)  # one per record: frozen would cost a third of a microsecond more
class Row:
    """`line` is where it begins, from 1. `request` None: it cannot be read, and `problem` says why. `size`: of its text, in
    bytes or characters."""

    line: int
    request: dict[str, Any] | None
    problem: Problem | None = None
    size: int = 0


def unreadable(line: int, code: str, detail: str, *field: str) -> Row:
    return Row(line, None, Problem(pointer("lines", line, *field), code, detail))
