"""Each kind of file is read into pages, text, Markdown, tables, metadata and a language."""

import json
import zipfile
from pathlib import Path

import pytest

from documents.bombs import docx
from documents.producers import ROWS
from gristmill.documents import Document, ParserPool, Refused

Files = dict[str, Path]


@pytest.mark.parametrize("kind", ["docx", "odt", "epub", "html"])
async def test_a_text_document_keeps_headings_lists_tables_and_links(
    pool: ParserPool, files: Files, kind: str
) -> None:
    document = await pool.parse(files[f"story.{kind}"], "whatever")
    lines = document.markdown.split("\n")
    assert "# The mill by the river" in lines
    assert "## Its parts" in lines
    assert "### The end" in lines
    assert {"1. Stone", "2. Wheel", "- one", "- two"} <= set(lines)
    assert [line.strip() for line in lines if line.startswith("   ")] == ["- axle", "- paddle"]
    assert "[flour](https://example.org/flour)" in document.markdown
    assert "Größe, naïve, 水車" in document.text
    assert "https" not in document.text
    assert "Only on working days." in document.text
    assert [table.rows for table in document.tables] == [ROWS]
    assert document.metadata["title"] == "The mill"
    assert document.metadata["author"] == "Ada Miller"
    assert document.language == "en"


@pytest.mark.parametrize("kind", ["docx", "html", "epub"])
async def test_emphasis_is_kept_in_markdown_and_dropped_from_text(
    pool: ParserPool, files: Files, kind: str
) -> None:
    document = await pool.parse(files[f"story.{kind}"], "")
    assert "The old *mill* grinds **grain**" in document.markdown
    assert "The old mill grinds grain" in document.text


async def test_a_presentation_has_a_page_for_each_slide(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["story.pptx"], "")
    assert [page.number for page in document.pages] == [1, 2, 3, 4]
    assert document.pages[1].markdown.startswith("# The mill by the river")
    assert "- Wheel\n    - axle" in document.pages[1].markdown
    assert [(table.page, table.rows) for table in document.tables] == [(2, ROWS)]
    assert document.pages[3].markdown == "# Notes\n\n1. Only on working days."


async def test_rich_text_keeps_its_words_and_tables(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["story.rtf"], "")
    assert document.media_type == "application/rtf"
    assert "# The mill by the river" in document.markdown.split("\n")
    assert "The old mill grinds grain to flour" in document.text
    assert "Größe, naïve, 水車" in document.text
    assert [table.rows for table in document.tables] == [ROWS]


async def test_a_pdf_has_its_pages_tables_and_title(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["typed.pdf"], "")
    assert [page.number for page in document.pages] == [1, 2]
    assert document.pages[0].markdown.startswith("# The mill by the river")
    assert "this is sentence 19" in document.pages[0].text
    assert [(table.page, table.rows) for table in document.tables] == [(1, ROWS)]
    assert document.pages[1].text == "These are the last words about the mill."
    assert (document.metadata["title"], document.metadata["author"]) == ("The mill", "Ada Miller")
    assert not any(page.scanned for page in document.pages)


async def test_a_scanned_page_is_reported_as_such(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["half-scanned.pdf"], "")
    assert [page.scanned for page in document.pages] == [False, True, False]
    assert not document.scanned
    wholly = await pool.parse(files["scanned.pdf"], "")
    assert wholly.scanned
    assert wholly.text == ""


@pytest.mark.parametrize("kind", ["xlsx", "xls", "ods"])
async def test_a_sheet_is_a_page_and_a_table(pool: ParserPool, files: Files, kind: str) -> None:
    document = await pool.parse(files[f"parts.{kind}"], "")
    assert document.pages[0].markdown.startswith("## Parts\n\n| Part | Count |\n| --- | --- |\n")
    assert document.tables[0].rows[:3] == ROWS
    assert document.tables[0].csv().startswith("Part,Count\nStone,2\n")


async def test_cells_show_as_people_write_them(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["parts.xlsx"], "")
    assert document.tables[0].rows[3] == ("Sum", "3")
    assert document.pages[1].tables[0].rows == (("Day", "Open"), ("2026-11-25", "TRUE"), ("", "0.5"))


async def test_numbers_with_spaces_around_them_are_numbers_to_excel_and_to_us(
    pool: ParserPool, files: Files, tmp_path: Path
) -> None:
    spaced = tmp_path / "spaced.xlsx"
    with zipfile.ZipFile(files["parts.xlsx"]) as original, zipfile.ZipFile(spaced, "w") as copy:
        for name in original.namelist():
            copy.writestr(name, original.read(name).replace(b"<v>0.5</v>", b"<v> 0.5</v>"))
    assert (await pool.parse(spaced, "")).tables == (await pool.parse(files["parts.xlsx"], "")).tables


async def test_a_letter_has_its_headers_text_and_names_of_attachments(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["letter.eml"], "")
    assert document.media_type == "message/rfc822"
    assert document.markdown.startswith("# The mill — Größe\n\n")
    assert "The old mill grinds grain to flour. Größe." in document.text
    assert "- wheel.bin (application/octet-stream)" in document.markdown
    assert document.metadata["from"] == "Ada Müller <ada@example.org>"


async def read(pool: ParserPool, tmp_path: Path, name: str, data: bytes) -> Document:
    (tmp_path / "document").write_bytes(data)
    return await pool.parse(tmp_path / "document", name)


async def test_markdown_stays_as_it_is_and_tells_its_tables(pool: ParserPool, tmp_path: Path) -> None:
    body = "---\ntitle: T\n---\n# A *b*\n\n```\n| no | table |\n|---|---|\n```\n\n| x | y |\n|---|:--|\n| 1 | [l](u) |\n"
    document = await read(pool, tmp_path, "a.md", body.encode())
    assert document.markdown == body.partition("---\n# ")[1][4:] + body.partition("---\n# ")[2].rstrip("\n")
    assert [table.rows for table in document.tables] == [(("x", "y"), ("1", "l"))]
    assert document.text.split("\n")[0] == "A b"
    assert document.metadata == {"title": "T"}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", (("a", "b"), ("1", "2"))),
        ("a;b\n1,5;2\n", (("a", "b"), ("1,5", "2"))),
        ('a\tb\n"x\ty"\tz\n', (("a", "b"), ("x\ty", "z"))),
        ('a,b\n"line\nbreak","say ""hi"""\n', (("a", "b"), ("line\nbreak", 'say "hi"'))),
        ("a,b,c\n1\n", (("a", "b", "c"), ("1", "", ""))),
    ],
    ids=["comma", "semicolon", "tab", "quoting", "ragged"],
)
async def test_csv_is_cut_at_its_own_delimiter(
    pool: ParserPool, tmp_path: Path, text: str, rows: tuple[tuple[str, ...], ...]
) -> None:
    document = await read(pool, tmp_path, "a.csv", text.encode())
    assert [table.rows for table in document.tables] == [rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
async def test_text_is_read_in_the_encoding_it_is_in(pool: ParserPool, tmp_path: Path, encoding: str) -> None:
    text = "Der Müller wohnt am Fluss, und über die Brücke führt der Weg zur schönen alten Mühle.\n" * 3
    document = await read(pool, tmp_path, "a.txt", text.encode(encoding))
    assert document.text == text.strip()
    assert document.language == "de"


async def test_a_form_feed_ends_a_page_of_text(pool: ParserPool, tmp_path: Path) -> None:
    document = await read(pool, tmp_path, "a.txt", b"one\ftwo\f")
    assert [page.text for page in document.pages] == ["one", "two"]


async def test_json_and_xml_are_kept_as_code(pool: ParserPool, tmp_path: Path) -> None:
    given = json.dumps({"mill": {"wheel": ["axle", 1]}}, indent=1)
    document = await read(pool, tmp_path, "a.json", given.encode())
    assert (document.media_type, document.text) == ("application/json", given)
    assert document.markdown == f"```json\n{given}\n```"
    body = (
        '<?xml version="1.0" encoding="iso-8859-1"?>\n<mill><part>Größe</part> and <part>wheel</part></mill>'
    )
    document = await read(pool, tmp_path, "a", body.encode("iso-8859-1"))
    assert (document.media_type, document.text) == ("application/xml", "Größe and\nwheel")
    assert document.markdown == f"```xml\n{body}\n```"


async def test_html_is_read_without_scripts_and_in_the_charset_it_names(
    pool: ParserPool, tmp_path: Path
) -> None:
    body = '<html><meta charset="iso-8859-1"><script>var no = 1</script><p>Größe</p></html>'
    document = await read(pool, tmp_path, "a", body.encode("iso-8859-1"))
    assert document.text == "Größe"


async def test_what_postgres_cannot_keep_is_left_out(pool: ParserPool, tmp_path: Path) -> None:
    letters = rb"{\rtf1 a\u0?b\u-10240?c\u-10179?\u-8704?d}"  # NUL, half a pair, a pair
    document = await read(pool, tmp_path, "", letters)
    assert document.text == "ab\ufffdc\U0001f600d"


async def test_a_merged_cell_s_text_stands_in_its_first_cell_only(pool: ParserPool, tmp_path: Path) -> None:
    def cell(text: str, merge: str = "") -> bytes:
        return f"<w:tc><w:tcPr>{merge}</w:tcPr><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>".encode()

    wide, top, below = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    first = b"<w:tr>" + cell("wide", wide) + cell("top", top) + b"</w:tr>"
    second = b"<w:tr>" + cell("a") + cell("b") + cell("hidden", below) + b"</w:tr>"
    document = await read(pool, tmp_path, "", docx(b"<w:tbl>" + first + second + b"</w:tbl>"))
    assert [table.rows for table in document.tables] == [(("wide", "", "top"), ("a", "b", ""))]


@pytest.mark.parametrize(
    ("name", "wrong", "media_type"),
    [
        ("typed.pdf", "a.txt", "application/pdf"),
        ("parts.xlsx", "a.docx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("story.rtf", "a.csv", "application/rtf"),
        ("story.html", "a.md", "text/html"),
        ("letter.eml", "a.txt", "text/plain"),
    ],
)
async def test_the_kind_of_file_is_in_the_file_and_not_in_its_name(
    pool: ParserPool, files: Files, name: str, wrong: str, media_type: str
) -> None:
    document = await pool.parse(files[name], wrong)
    assert document.media_type == (media_type if name != "letter.eml" else "message/rfc822")


@pytest.mark.parametrize(
    ("name", "code"),
    [("encrypted.pdf", "encrypted")],
)
async def test_a_locked_document_is_refused(pool: ParserPool, files: Files, name: str, code: str) -> None:
    with pytest.raises(Refused) as refused:
        await pool.parse(files[name], name)
    assert refused.value.code == code
    assert refused.value.suggestion


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_document"),
        (b" \n\t \n", "empty_document"),
        (b"<html><body></body></html>", "empty_document"),
        (b"<?xml version='1.0'?><a/>", "empty_document"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "unsupported_type"),
        (b"\x7fELF" + bytes(100), "unsupported_type"),
        (b"PK\x03\x04" + b"x" * 100, "document_broken"),
        (b"%PDF-1.7\nnothing", "document_broken"),
        (b"<?xml version='1.0'?><a>", "document_broken"),
    ],
    ids=["nothing", "blank", "html", "xml", "picture", "program", "no archive", "no pdf", "no end"],
)
async def test_what_cannot_be_read_is_refused_with_a_code_and_a_suggestion(
    pool: ParserPool, tmp_path: Path, data: bytes, code: str
) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(Refused) as refused:
        await pool.parse(tmp_path / "a", "a")
    assert refused.value.code == code
    assert refused.value.message
    assert refused.value.suggestion
