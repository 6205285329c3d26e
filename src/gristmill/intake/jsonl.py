"""JSON Lines: one strict parse per line, one line in memory at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gristmill.domain.errors import Invalid
from gristmill.intake import json
from gristmill.intake.rows import MAX_LINE_BYTES, Row, unreadable


def rows(path: Path) -> Iterator[Row]:
    """Every line that is not blank. A bad one does not end the reading: the next line is a new beginning."""
    with path.open("rb") as file:
        line = 0
        while text := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(text) > MAX_LINE_BYTES:
                _skip(file, text)
                yield unreadable(line, "line_too_long", f"the line is longer than {MAX_LINE_BYTES} bytes")
            elif not text.isspace():
                yield _row(line, text)


def _row(line: int, text: bytes) -> Row:
    try:
        return Row(line, json.parse(text, dict), None, len(text))
    except Invalid as refused:
        [problem] = refused.problems
        return unreadable(line, problem.code, problem.detail)


def _skip(file: IO[bytes], text: bytes) -> None:
    """To the end of a line whose beginning was read."""
    while text and not text.endswith(b"\n"):
        text = file.readline(MAX_LINE_BYTES)
