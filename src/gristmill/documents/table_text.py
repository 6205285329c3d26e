"""CSV and its kin."""

import csv
import io

from gristmill.documents.document import Page
from gristmill.documents.encoding import decoded
from gristmill.documents.flow import Flow
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50
_FIELD_CHARACTERS = 1_000_000


def read(source: Source) -> Reading:
    """The delimiter is the one that cuts the first lines into the same number of cells, two or more."""
    body = decoded(source.data())
    csv.field_size_limit(_FIELD_CHARACTERS)
    delimiter = _delimiter(body)
    flow = Flow(source.limits)
    try:
        flow.table(_rows(body, delimiter, source.limits.table_cells))
    except csv.Error as error:
        raise Refused("document_broken", "The CSV cannot be told apart into cells.") from error
    page = flow.pages()[0]
    return Reading(
        (Page(1, body.strip("\n"), page.markdown, page.tables),), {"delimiter": repr(delimiter)[1:-1]}
    )


def _rows(body: str, delimiter: str, most: int) -> list[list[str]]:
    rows: list[list[str]] = []
    cells = 0
    for row in csv.reader(io.StringIO(body, newline=""), delimiter=delimiter):
        cells += len(row)
        if cells > most:
            raise too_complex(f"It has more than {most:,} cells.")
        if row:
            rows.append(row)
    return rows


def _delimiter(body: str) -> str:
    end = 0
    for _ in range(_SAMPLE_LINES):
        end = body.find("\n", end) + 1
        if not end:
            break
    sample = body[: end or len(body)][:100_000]
    return max(_DELIMITERS, key=lambda delimiter: _fit(sample, delimiter))


def _fit(sample: str, delimiter: str) -> float:
    """How many rows are as wide as most are; nothing for a delimiter that does not cut."""
    widths = [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
    usual = max(set(widths), key=widths.count) if widths else 1
    return 0.0 if usual < 2 else widths.count(usual) / len(widths) + usual / 10_000
