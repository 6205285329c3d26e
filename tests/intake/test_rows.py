"""Uploaded files, record by record: JSON Lines and CSV as people write them, and as they should not."""

import json
import random
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from gristmill.intake import csv, jsonl
from gristmill.intake.columns import Columns
from gristmill.intake.rows import MAX_LINE_BYTES, Row
from gristmill.intake.source import TAKEN_SIZE, FileOptions, take


class Given(BaseModel):
    title: str
    pages: int | None = None
    weight: float = 1.0
    public: bool = False
    tags: list[str] = []
    metadata: dict[str, str] = {}


class Bare(BaseModel):
    title: str


class Anything(RootModel[dict[str, Any]]):
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows"


def wrong(rows: list[Row]) -> dict[str, str]:
    return {row.problem.pointer: row.problem.code for row in rows if row.problem}


def read(
    path: Path, text: str | bytes, mapping: Mapping[str, str | None] | None = None, **form: str
) -> list[Row]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    written = csv.form_of(path, form.get("encoding"), form.get("delimiter"))
    names, problems = csv.header(path, written)
    assert problems == []
    columns, problems = Columns.of(names, mapping or {}, Given)
    assert problems == []
    assert columns is not None
    return list(csv.rows(path, written, columns))


def header(path: Path, text: str | bytes) -> list[str]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [one.code for one in csv.header(path, csv.form_of(path, None, None))[1]]


def misfits(
    names: list[str], mapping: dict[str, str | None], model: type[BaseModel] = Bare
) -> dict[str, str]:
    columns, problems = Columns.of(names, mapping, model)
    assert (columns is None) == bool(problems)
    return {one.pointer.removeprefix("/source/column_mapping"): one.code for one in problems}


# --- JSON Lines -------------------------------------------------------------------------------------------------------


def test_each_line_is_read_strictly_and_a_bad_one_does_not_end_the_reading(path: Path) -> None:
    path.write_bytes(
        b'{"custom_id": "a"}\n'
        b"\n   \r\n"
        b'{"custom_id": NaN}\n'
        b"[1]\n"
        b'{"custom_id": "\xff"}\n'
        b'{"custom_id": "\\u0000"}\r\n'
        b'{"custom_id": "b"} x\n'
        b'{"custom_id": "\xe2\x80\xa8"}'
    )
    rows = list(jsonl.rows(path))
    assert [(row.line, row.request) for row in rows if row.request] == [
        (1, {"custom_id": "a"}),
        (9, {"custom_id": "\u2028"}),
    ]
    assert wrong(rows) == {
        "/lines/4": "invalid_json",
        "/lines/5": "invalid_type",
        "/lines/6": "invalid_utf8",
        "/lines/7": "nul_character",
        "/lines/8": "invalid_json",
    }


def test_a_line_that_is_too_long_is_passed_over_without_being_kept(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"custom_id": "a"}\n"')
        for _ in range(40):
            file.write(b"x" * 1_000_000)
        file.write(b'"\n{"custom_id": "b"}\n')
    tracemalloc.start()
    rows = list(jsonl.rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [row.request for row in rows] == [{"custom_id": "a"}, None, {"custom_id": "b"}]
    assert wrong(rows) == {"/lines/2": "line_too_long"}
    assert peak < 5 * MAX_LINE_BYTES


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_columns_go_to_fields_to_the_metadata_or_nowhere(path: Path) -> None:
    rows = read(
        path,
        "Name,pages,Colour,secret,id\nOne,3,red,x,first\nTwo,,,,\n",
        {"Name": "title", "secret": None, "id": "custom_id"},
    )
    assert [row.request for row in rows] == [
        {"custom_id": "first", "input": {"title": "One", "pages": 3, "metadata": {"Colour": "red"}}},
        {"custom_id": "row-2", "input": {"title": "Two"}},
    ]


def test_cells_become_what_the_field_wants_and_stay_text_where_they_cannot(path: Path) -> None:
    rows = read(
        path,
        'title,pages,weight,public,tags\n7,7,1e3,TRUE,"[""a"", ""b""]"\nx,seven,1e999,yes,a\n',
    )
    assert [row.request and row.request["input"] for row in rows] == [
        {"title": "7", "pages": 7, "weight": 1000.0, "public": True, "tags": ["a", "b"]},
        {"title": "x", "pages": "seven", "weight": "1e999", "public": "yes", "tags": "a"},
    ]


def test_quotes_hold_delimiters_quotes_and_lines_and_rows_know_their_first_line(path: Path) -> None:
    rows = read(path, 'title,pages\r\n"a, ""b""\nc",1\r\n\r\nd,2\r\n')
    assert [(row.line, row.request and row.request["input"]["title"]) for row in rows] == [
        (2, 'a, "b"\nc'),
        (5, "d"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_in_the_header_outside_quotes(path: Path, delimiter: str) -> None:
    text = f'"a,,,,;;;;\t\t\t\t||||"{delimiter}title{delimiter}pages\n1{delimiter}x{delimiter}2\n'
    [row] = read(path, text, {"a,,,,;;;;\t\t\t\t||||": None})
    assert row.request == {"custom_id": "row-1", "input": {"title": "x", "pages": 2}}


GERMAN = "Müller führt die Mühle über Höhen"
FRENCH = "Où est passé l'élève déjà fatigué ? Garçon, ça va très bien. Le château et la forêt"
RUSSIAN = "Мельница мелет муку каждый день, река течёт мимо"
CHINESE = "磨坊每天都在磨面粉，河水从旁边流过。"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [(mark, GERMAN) for mark in ("utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1")]
    + [("cp1252", FRENCH), ("cp1251", RUSSIAN), ("gb18030", CHINESE)],
)
def test_the_encoding_is_found_by_its_mark_or_by_what_the_whole_file_is(
    path: Path, encoding: str, text: str
) -> None:
    rows = read(path, ("title\n" + "plain\n" * 20_000 + f'"{text}"\n' * 3).encode(encoding))
    assert rows[-1].request == {"custom_id": "row-20003", "input": {"title": text}}


def test_an_encoding_that_is_named_is_used_and_an_unknown_one_is_refused(path: Path) -> None:
    [row] = read(path, "title\n粉\n".encode("gb18030"), encoding="gb18030")
    assert row.request == {"custom_id": "row-1", "input": {"title": "粉"}}
    with pytest.raises(LookupError):
        csv.form_of(path, "klingon", None)


def test_a_row_that_does_not_decode_is_told_with_its_line_and_the_others_are_read(path: Path) -> None:
    rows = read(path, b"title\na\n\xff\xfe\nb\n", encoding="utf-8")
    assert wrong(rows) == {"/lines/3": "undecodable"}
    assert [row.request["input"]["title"] for row in rows if row.request] == ["a", "b"]


def test_rows_that_cannot_be_stored_or_have_too_much_are_told_with_their_lines(path: Path) -> None:
    rows = read(path, "title,pages\na,1,2\nb\0,1\nc\n")
    assert wrong(rows) == {"/lines/2": "too_many_cells", "/lines/3": "nul_character"}
    assert [row.request["input"] for row in rows if row.request] == [{"title": "c"}]


def test_a_quote_that_is_left_open_ends_the_reading_with_the_line_where_it_opens(path: Path) -> None:
    rows = read(path, 'title\na\n"b\n' + "x\n" * MAX_LINE_BYTES)
    assert wrong(rows) == {"/lines/3": "bad_csv"}
    assert len(rows) == 2


def test_a_header_without_sense_is_refused(path: Path) -> None:
    assert header(path, "") == ["empty_file"]
    assert header(path, "\n\n\n") == ["empty_file"]
    assert header(path, "\n\na,b\n") == []
    assert header(path, "a,,b\n") == ["bad_column_name"]
    assert header(path, "a,b,a\n") == ["duplicate_column"]
    assert header(path, ",".join(f"c{n}" for n in range(1001))) == ["too_many_columns"]
    assert header(path, f"{'a' * 257},b\n") == ["bad_column_name"]


def test_a_mapping_must_fit_the_header_and_the_input(path: Path) -> None:
    assert misfits(["title"], {}) == {}
    assert misfits(["title", "x"], {}) == {"/x": "unmapped_column"}
    assert misfits(["title", "x"], {"x": None}) == {}
    assert misfits(["title", "x"], {"x": "colour"}) == {"/x": "unknown_field"}
    assert misfits(["title", "x"], {"x": "title"}) == {"/x": "duplicate_field"}
    assert misfits(["a/b"], {"a/b": "title", "c": "title"}) == {"/c": "unknown_column"}
    assert misfits(["a", "b"], {"a": "custom_id", "b": "custom_id"}) == {"/b": "duplicate_field"}
    assert misfits(["any", "thing"], {}, Anything) == {}
    assert misfits(["title", "metadata", "x"], {}, Given) == {}


def test_a_hundred_thousand_rows_are_read_in_bounded_memory(path: Path) -> None:
    seeded = random.Random(5)
    with path.open("w", newline="") as file:
        file.write("title,pages,note\n")
        for n in range(100_000):
            file.write(f'"row ""{n}"", {seeded.random()}",{n},"two\nlines"\n')
    form = csv.form_of(path, None, None)
    columns, _ = Columns.of(csv.header(path, form)[0], {}, Given)
    assert columns is not None
    tracemalloc.start()
    count = sum(row.request is not None for row in csv.rows(path, form, columns))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 1_000_000


@pytest.mark.parametrize("form", ["jsonl", "csv", "openai"])
def test_of_large_records_few_are_taken_at_a_time(path: Path, form: Any) -> None:
    text = "x" * 700_000
    request = json.dumps({"custom_id": "a", "method": "POST", "url": "/u", "body": {"text": text}})
    records = f"a,{text}\n" * 7
    path.write_text(f"custom_id,text\n{records}" if form == "csv" else f"{request}\n" * 7)
    rows = FileOptions(format=form, url="/u").rows(path, Anything)

    sizes = [len(some) for some in iter(lambda: take(rows, 500), [])]

    assert sum(sizes) == 7
    assert max(sizes) * len(text) < TAKEN_SIZE + 2 * len(text)
    assert all(row.request for row in FileOptions(format=form, url="/u").rows(path, Anything))
