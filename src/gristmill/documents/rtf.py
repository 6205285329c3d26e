"""Rich Text: paragraphs, headings by style or outline level, lists, tables.

Left out: pictures, footnotes, headers and footers, bold and italic, the layout.
"""

import re
from dataclasses import dataclass, field, replace

from gristmill.documents.document import Page
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import too_complex
from gristmill.documents.source import Reading, Source

_TOKEN = re.compile(
    r"\\([A-Za-z]{1,32})(-?\d{1,9})? ?|\\'([0-9A-Fa-f]{2})|\\(.)|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.DOTALL
)
_SIGNS = {
    "tab": "\t", "line": "\n", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“",
    "rdblquote": "”", "bullet": "•", "emspace": " ", "enspace": " ", "~": "\u00a0", "_": "-", "-": "",
    "{": "{", "}": "}", "\\": "\\", "\n": "\n", "\r": "\n",
}  # fmt: skip
_SKIPPED = frozenset({
    "colortbl", "pict", "object", "header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf",
    "footnote", "annotation", "fldinst", "listtable", "listoverridetable", "revtbl", "themedata", "datastore",
    "xmlnstbl", "nonshppict", "filetbl", "generator", "latentstyles", "bkmkstart", "bkmkend", "rsidtbl", "passwordhash",
})  # fmt: skip
_PROPERTIES = frozenset({"title", "author", "subject", "keywords"})
_CHARSETS = {
    128: "cp932", 129: "cp949", 134: "cp936", 136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258",
    177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250",
}  # fmt: skip
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_ITEM = re.compile(r"\s*([•·▪◦o\uf0b7\u2013-]|\d{1,3}[.)])\t\s*(?=\S)")


@dataclass(slots=True)
class _Group:
    """What a brace saves and its end restores."""

    into: str = "text"  # where characters go: text, fonts, styles, a property, or nowhere
    codepage: str = "cp1252"
    fallback: int = 1  # characters that stand in for one \\u


@dataclass(slots=True)
class _Paragraph:
    table: bool = False
    heading: int = 0
    indent: int = 0


@dataclass(slots=True)
class _Table:
    rows: list[list[str]] = field(default_factory=list)
    row: list[str] = field(default_factory=list)
    cell: list[str] = field(default_factory=list)


def read(source: Source) -> Reading:
    reader = _Reader(source.limits)
    return Reading(reader.pages(source.data().decode("latin-1")), reader.metadata)


class _Reader:
    def __init__(self, limits: Limits) -> None:
        self.metadata: dict[str, str] = {}
        self._flow = Flow(limits)
        self._depth = limits.depth
        self._group = _Group()
        self._groups: list[_Group] = []
        self._paragraph = _Paragraph()
        self._table = _Table()
        self._text: list[str] = []
        self._bytes = bytearray()  # of a code page in which a character may take two
        self._fonts: dict[int, str] = {}
        self._styles: dict[int, int] = {}
        self._number = 0  # of the font or style that is being told about
        self._indents: list[int] = []
        self._skip = 0

    def pages(self, source: str) -> tuple[Page, ...]:
        for token in _TOKEN.finditer(source):
            word, number, code, sign, brace, text = token.groups()
            if brace:
                self._brace(brace)
            elif code:
                self._byte(int(code, 16))
            elif word or sign:
                self._word(word or sign, int(number) if number else None)
            elif text:
                self._write(text)
        self._end_paragraph()
        self._end_table()
        return self._flow.pages()

    def _brace(self, brace: str) -> None:
        self._flush()
        self._skip = 0
        if brace == "{":
            self._groups.append(replace(self._group))
            if len(self._groups) > self._depth:
                raise too_complex("It is nested too deeply.")
        elif self._groups:
            if self._group.into == "styles":
                self._name_style()
            self._group = self._groups.pop()

    def _byte(self, value: int) -> None:
        if self._skip:
            self._skip -= 1
        elif self._group.into != "nowhere":
            self._bytes.append(value)

    def _write(self, text: str) -> None:
        if self._skip:
            text, self._skip = text[self._skip :], max(self._skip - len(text), 0)
        if self._group.into == "nowhere" or not text:
            return
        if text.isascii():
            self._flush()
            self._put(text)
        else:
            self._bytes += text.encode("latin-1", "replace")

    def _flush(self) -> None:
        if self._bytes:
            held, self._bytes = self._bytes, bytearray()
            self._put(held.decode(self._group.codepage, "replace"))

    def _put(self, text: str) -> None:
        into = self._group.into
        if into in ("text", "styles"):
            self._text.append(text)
        elif into in _PROPERTIES:
            self.metadata[into] = self.metadata.get(into, "") + text

    def _word(self, word: str, number: int | None) -> None:
        if word != "'":
            self._flush()
        if word == "u" and number is not None:
            self._skip = self._group.fallback
            if self._group.into != "nowhere":
                self._put(chr(number % 65536))
        elif word in _SIGNS:
            self._put(_SIGNS[word])
        elif word in ("par", "sect", "cell", "nestcell", "row", "nestrow", "page"):
            self._end(word)
        else:
            self._set(word, number)

    def _end(self, word: str) -> None:
        if self._group.into != "text":
            return
        if word in ("cell", "nestcell"):
            self._end_paragraph(cell=True)
        elif word in ("row", "nestrow"):
            self._table.rows.append(self._table.row)
            self._table.row, self._table.cell = [], []
        else:
            self._end_paragraph()
            if word == "page":
                self._flow.next_page()

    def _set(self, word: str, number: int | None) -> None:
        if word in ("pard", "plain"):
            self._paragraph = _Paragraph() if word == "pard" else self._paragraph
        elif word == "intbl":
            self._paragraph.table = True
        elif word == "outlinelevel" and number is not None and number < 9:
            self._paragraph.heading = number + 1
        elif word == "li" and number is not None:
            self._paragraph.indent = number
        elif word == "s" and number is not None:
            self._number = number
            self._paragraph.heading = self._styles.get(number, 0)
        else:
            self._set_group(word, number)

    def _set_group(self, word: str, number: int | None) -> None:
        group = self._group
        if word == "uc":
            group.fallback = min(number if number is not None else 1, 10)
        elif word == "ansicpg":
            group.codepage = _known(f"cp{number}")
        elif word == "f":
            self._number = number or 0
            if group.into == "text":
                group.codepage = self._fonts.get(self._number, group.codepage)
        elif word == "fcharset":
            if number in _CHARSETS:
                self._fonts[self._number] = _CHARSETS[number]
        else:
            self._open(word)

    def _open(self, word: str) -> None:
        group = self._group
        if word in _SKIPPED or word in ("*", "fonttbl", "upr"):
            group.into = "nowhere"
        elif word == "stylesheet":
            group.into = "styles"
        elif word == "info":
            group.into = "info"
        elif word in _PROPERTIES and group.into == "info":
            group.into = word

    def _name_style(self) -> None:
        name = "".join(self._text).strip(" ;")
        self._text.clear()
        if found := _HEADING.match(name):
            self._styles[self._number] = int(found[1])
        elif name.lower() == "title":
            self._styles[self._number] = 1

    def _end_paragraph(self, *, cell: bool = False) -> None:
        self._flush()
        text = "".join(self._text).strip(" \n")
        self._text.clear()
        if cell or self._paragraph.table:
            self._table.cell += [text] if text.strip() else []
            if cell:
                self._table.row.append("\n".join(self._table.cell))
                self._table.cell = []
            return
        self._end_table()
        self._add(text)

    def _end_table(self) -> None:
        if self._table.rows:
            self._flow.table(self._table.rows)
        self._table = _Table()

    def _add(self, text: str) -> None:
        item = _ITEM.match(text)
        if self._paragraph.heading:
            self._flow.heading(self._paragraph.heading, text)
        elif item:
            marker = item[1].replace(")", ".") if item[1][0].isdigit() else "-"
            self._flow.item(self._level(), marker, text[item.end() :])
        else:
            self._indents.clear()
            self._flow.paragraph(text.strip())

    def _level(self) -> int:
        """Of an item, by how far it is indented against those before it."""
        while self._indents and self._indents[-1] > self._paragraph.indent:
            self._indents.pop()
        if not self._indents or self._indents[-1] < self._paragraph.indent:
            self._indents.append(self._paragraph.indent)
        return len(self._indents) - 1


def _known(codepage: str) -> str:
    try:
        b"".decode(codepage)
    except LookupError:
        return "cp1252"
    return codepage
