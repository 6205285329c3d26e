"""Rows as the arrays of their columns, as `unnest` takes them: one statement for any number of rows."""

from collections.abc import Sequence
from typing import Any


def columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    """`count` arrays, also of no rows."""
    return [[row[at] for row in rows] for at in range(count)]
