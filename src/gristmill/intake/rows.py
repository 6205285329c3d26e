"""One record of an uploaded file, as it would stand in `requests`."""

from dataclasses import dataclass
from typing import Any

from gristmill.domain.errors import Problem
from gristmill.intake.problems import pointer

MAX_LINE_BYTES = 1024 * 1024 + 4096  # an item and what stands around it


@dataclass(frozen=True, slots=True)
class Row:
    """`line` is where it begins, from 1. `request` None: it cannot be read, and `problem` says why."""

    line: int
    request: dict[str, Any] | None
    problem: Problem | None = None


def unreadable(line: int, code: str, detail: str, *field: str) -> Row:
    return Row(line, None, Problem(pointer("lines", line, *field), code, detail))
