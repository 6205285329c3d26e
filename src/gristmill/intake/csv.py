"""CSV: records of text under a header, brought into the fields of a processor's input.

The header is checked when a batch is made; the records are read when it is ingested. Encoding: as the caller says, or
by a byte order mark, or UTF-8 if the whole file is, or the likeliest by its first bytes.
"""

import codecs
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gristmill.domain.errors import Problem
from gristmill.intake.columns import Columns
from gristmill.intake.rows import MAX_LINE_BYTES, Row, unreadable

DELIMITERS = ",;\t|"
FALLBACK_ENCODING = (
    "cp1252"  # where nothing better is known: the West's usual one, and it takes almost any byte
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 64 * 1024
_MAX_COLUMNS = 1000
_MAX_NAME = 256

# Of one cell, and so of what an open quote may swallow before the reader gives up. Per process; nobody else reads CSV.
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True, slots=True)
class Form:
    """How a CSV file is written."""

    encoding: str
    delimiter: str


def form_of(path: Path, encoding: str | None, delimiter: str | None) -> Form:
    """Raises LookupError for an encoding that is none. Reads the whole file once, if the encoding is not given."""
    found = _encoding(path) if encoding is None else codecs.lookup(encoding).name
    return Form(found, delimiter or _delimiter(path, found))


def header(path: Path, form: Form) -> tuple[Sequence[str], list[Problem]]:
    """The names of the columns, and what is wrong with them."""
    record = next(_records(path, form), None)
    if record is None:
        return (), [_wrong("empty_file", "the file has no header")]
    names = record[1]
    if len(names) > _MAX_COLUMNS:
        return names, [_wrong("too_many_columns", f"more than {_MAX_COLUMNS} columns")]
    problems = []
    for place, name in enumerate(names, 1):
        if not name or len(name) > _MAX_NAME or _unstorable(name):
            problems.append(_wrong("bad_column_name", f"column {place} has no usable name"))
        elif name in names[: place - 1]:
            problems.append(_wrong("duplicate_column", f"column {place} has the name of an earlier one"))
    return names, problems


def rows(path: Path, form: Form, columns: Columns) -> Iterator[Row]:
    """Every record behind the header. One that cannot be read does not end the reading, unless its quotes do."""
    records = _records(path, form)
    width = len(columns.targets)
    next(records, None)
    number = 0
    try:
        for line, cells in records:
            number += 1
            yield _row(number, line, cells, width, columns)
    except csv.Error:
        detail = "the record does not end: is a quote left open, or a cell larger than an item may be?"
        yield unreadable(line + 1 if number else 2, "bad_csv", detail)
    except UnicodeError:
        yield unreadable(line + 1 if number else 2, "undecodable", f"the text is not {form.encoding}")


def _row(number: int, line: int, cells: Sequence[str], width: int, columns: Columns) -> Row:
    if len(cells) > width:
        return unreadable(line, "too_many_cells", f"{len(cells)} cells under {width} columns")
    for cell in cells:
        if found := _unstorable(cell):
            return unreadable(line, *found)
    return Row(line, columns.request(number, cells), None, sum(map(len, cells)))


def _unstorable(cell: str) -> tuple[str, str] | None:
    if "\0" in cell:
        return "nul_character", "the character NUL cannot be stored"
    # Bytes that do not decode come as lone surrogates (surrogateescape below).
    if not cell.isascii() and any("\ud800" <= character <= "\udfff" for character in cell):
        return "undecodable", "a byte that is no text in this encoding"
    return None


def _records(path: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line it begins on, from 1. Empty lines are none."""
    with path.open(encoding=form.encoding, errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=form.delimiter)
        begins = 1
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
        for mark, name in _MARKS:
            if sample.startswith(mark):
                return name
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while sample:
                decoder.decode(sample)
                last, sample = sample, file.read(_SAMPLE_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _likeliest(sample or last)
    return "utf-8"


def _likeliest(sample: bytes) -> str:
    """By the lines that are not ASCII. The West's encoding unless another makes better sense of them as a language."""
    try:
        from charset_normalizer import from_bytes
    except ModuleNotFoundError:  # the extra `documents`
        return FALLBACK_ENCODING
    telling = b"\n".join(line for line in sample.split(b"\n") if not line.isascii())
    found = from_bytes(telling)
    best = found.best()
    if best is None or best.coherence == 0:
        return FALLBACK_ENCODING
    western = [one for one in found if FALLBACK_ENCODING in one.could_be_from_charset]
    if any(one.coherence >= best.coherence for one in western):
        return FALLBACK_ENCODING
    return best.encoding


def _delimiter(path: Path, encoding: str) -> str:
    """The one that the header has most of, outside quotes."""
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        line = file.readline(MAX_LINE_BYTES)
    outside = "".join(line.split('"')[::2])
    return max(DELIMITERS, key=outside.count)


def _wrong(code: str, detail: str) -> Problem:
    return Problem("/source/file_id", code, detail)
