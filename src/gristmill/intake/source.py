"""Where a batch's items come from when they are not in the request, and the reading of it, record by record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gristmill.domain.errors import Problem
from gristmill.intake import csv, jsonl, openai_lines
from gristmill.intake.columns import Columns
from gristmill.intake.rows import Row

Format = Literal["jsonl", "csv", "openai"]
Delimiter = Literal[",", ";", "\t", "|"]
TAKEN_SIZE = 2 * 1024 * 1024  # of text; with more, no further record is taken up


class FileOptions(BaseModel):
    """How an uploaded file becomes items."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Format
    column_mapping: Annotated[dict[str, str | None], Field(max_length=1000)] = {}
    encoding: str | None = None
    delimiter: Delimiter | None = None
    url: str | None = None  # of the format openai: what each line has as its url
    fail_items: bool = False  # bad records fail by themselves, instead of the whole file

    def rows(self, path: Path, model: type[BaseModel]) -> Iterator[Row]:
        """Raises NotReadable: then there is no record to be had at all."""
        if self.format == "jsonl":
            return jsonl.rows(path)
        if self.format == "openai":
            return openai_lines.rows(path, self.url or "")
        form, columns = self.columns(path, model)
        return csv.rows(path, form, columns)

    def columns(self, path: Path, model: type[BaseModel]) -> tuple[csv.Form, Columns]:
        """How a CSV file is written, and where its columns go. Raises NotReadable."""
        try:
            form = csv.form_of(path, self.encoding, self.delimiter)
        except LookupError:
            detail = "no such encoding"
            raise NotReadable([Problem("/source/encoding", "unknown_encoding", detail)]) from None
        names, problems = csv.header(path, form)
        if problems:
            raise NotReadable(problems)
        columns, problems = Columns.of(names, self.column_mapping, model)
        if columns is None:
            raise NotReadable(problems)
        return form, columns


class NotReadable(Exception):
    """A file whose beginning is wrong already: `problems` says what."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].code)
        self.problems = problems


def take(rows: Iterator[Row], most: int) -> list[Row]:
    """The next records, fewer where they are large; [] means that there are no more. To be called in a thread: it reads from
    the disk."""
    taken: list[Row] = []
    size = 0
    for row in rows:
        taken.append(row)
        size += row.size
        if len(taken) == most or size >= TAKEN_SIZE:
            break
    return taken
