"""Lines and records, counted as they pass by, are those that the readers of the whole text count."""

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.domain.counting import Lines, Records
from gristmill.domain.inspection import Inspection

BOUNDED = settings(max_examples=1000, deadline=None, derandomize=True)
TEXT = st.text(alphabet='ab ",\n\r\t;', max_size=20)
CUT = st.integers(1, 5)


def in_pieces(text: str, size: int) -> list[bytes]:
    data = text.encode()
    return [data[at : at + size] for at in range(0, len(data), size)]


def records(text: str, size: int) -> int:
    counted = Records()
    for piece in in_pieces(text, size):
        counted.feed(piece)
    return counted.count


def as_csv(text: str) -> int:
    return sum(1 for record in csv.reader(io.StringIO(text, newline="")) if record)


@BOUNDED
@given(TEXT, CUT)
@example('"a""\n', 3)
@example('a,"b\r\nc"\r\nd', 4)
@example('5" pipe,x\ny', 1)
@example('"a"b"c\n"\nd', 2)
def test_records_are_those_that_the_csv_reader_counts(text: str, size: int) -> None:
    text = text.replace(";", "").replace(
        "\t", ""
    )  # delimiters of others: a quote behind one may open a field
    while "\r" in text.replace("\r\n", ""):
        text = text.replace("\r\n", "\n").replace("\r", "")
    assert records(text, size) == as_csv(text)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_open_quoted_fields_too(delimiter: str) -> None:
    assert records(f'a{delimiter}"b\n1"{delimiter}"c\n2"\nd{delimiter}e', 3) == 2


@BOUNDED
@given(TEXT, CUT)
def test_lines_are_those_that_are_not_blank(text: str, size: int) -> None:
    counted = Lines()
    for piece in in_pieces(text, size):
        counted.feed(piece)
    assert counted.count == sum(1 for line in text.split("\n") if line.strip())


def inspected(data: bytes, size: int = 1 << 20) -> Inspection:
    inspection = Inspection()
    for at in range(0, len(data), size):
        inspection.feed(data[at : at + size])
    return inspection


CSV = 'name,text\n"Ähre","two\nlines"\n"x","y"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "gb18030", "utf-16"])
def test_records_are_counted_in_the_usual_encodings(encoding: str) -> None:
    text = CSV if encoding != "gb18030" else CSV.replace("Ähre", "穀物")
    found = inspected(text.encode(encoding), 1 << 20)
    assert (found.records, found.lines) == (3, 4)
    assert inspected(text.encode(encoding), 7).records == 3


@pytest.mark.parametrize(
    "data",
    [b"%PDF-1.7\nx\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04\n\n", b"{\\rtf1 x}", b"a\0b\nc", b"GIF89a\n"],
)
def test_what_is_no_text_has_no_lines(data: bytes) -> None:
    found = inspected(data)
    assert (found.lines, found.records) == (None, None)


def test_nothing_has_no_lines() -> None:
    assert (inspected(b"").lines, inspected(b"").records, inspected(b"").media_type("a")) == (
        0,
        0,
        "text/plain",
    )
