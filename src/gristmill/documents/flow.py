"""Headings, paragraphs, items and tables in the order of reading, written out as Markdown and as plain text."""

import re
from collections.abc import Sequence

from gristmill.documents.document import Page, Table
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import too_complex

Rows = Sequence[Sequence[str]]


class Flow:
    """Readers add blocks; `pages` is what came of them. A page without a block is kept: numbers stay true."""

    _depth: int  # of the list item before

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cells = 0
        self._depth = 0  # of the last item
        self._pages: list[Page] = []
        self._begin()

    def heading(self, level: int, text: str) -> None:
        line = " ".join(text.split())
        if line:
            self._add(f"{'#' * min(max(level, 1), 6)} {line}", line)

    def paragraph(self, markdown: str, plain: str | None = None) -> None:
        if markdown.strip():
            self._add(markdown.strip("\n"), (markdown if plain is None else plain).strip("\n"))

    def item(self, depth: int, marker: str, markdown: str, plain: str | None = None) -> None:
        """Of a list; `depth` from 0. Items that follow each other stand without a blank line between."""
        if not markdown.strip():
            return
        self._depth = min(depth, self._depth + 1) if self._tight else 0
        indent = "    " * self._depth  # four fit below "-" and below "10."
        body = markdown.strip().replace("\n", f"\n{indent}{' ' * (len(marker) + 1)}")
        self._add(f"{indent}{marker} {body}", f"{indent}{marker} {(plain or markdown).strip()}", tight=True)

    def code(self, text: str, language: str = "") -> None:
        if text.strip():
            longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
            fence = "`" * (longest + 1)
            self._add(f"{fence}{language}\n{text.rstrip()}\n{fence}", text.rstrip())

    def table(self, rows: Rows) -> None:
        found = self.note(rows)
        if found:
            self._add(table_markdown(found), "\n".join("\t".join(row) for row in found))

    def note(self, rows: Rows) -> tuple[tuple[str, ...], ...]:
        """Counts a table whose text is added otherwise."""
        found = rectangle(rows)
        if found:
            self._cells += len(found) * len(found[0])
            if self._cells > self._limits.table_cells:
                raise too_complex(f"Its tables have more than {self._limits.table_cells:,} cells.")
            self._tables.append(Table(self._number, found))
        return found

    def next_page(self) -> None:
        markdown, plain = "".join(self._markdown), "".join(self._plain)
        self._pages.append(Page(self._number, plain, markdown, tuple(self._tables)))
        if len(self._pages) > self._limits.pages:
            raise too_complex(f"It has more than {self._limits.pages:,} pages.")
        self._begin()

    def pages(self) -> tuple[Page, ...]:
        if self._markdown or not self._pages:
            self.next_page()
        return tuple(self._pages)

    def _begin(self) -> None:
        self._number = len(self._pages) + 1
        self._markdown: list[str] = []
        self._plain: list[str] = []
        self._tables: list[Table] = []
        self._tight = False
        self._depth = 0

    def _add(self, markdown: str, plain: str, *, tight: bool = False) -> None:
        if self._markdown:
            gap = "\n" if tight and self._tight else "\n\n"
            self._markdown.append(gap)
            self._plain.append(gap)
        self._markdown.append(markdown)
        self._plain.append(plain)
        self._tight = tight


def rectangle(rows: Rows) -> tuple[tuple[str, ...], ...]:
    """Rows of one length, without empty rows and columns at the end."""
    tidy = [[cell.strip() for cell in row] for row in rows]
    while tidy and not any(tidy[-1]):
        tidy.pop()
    width = max((_filled(row) for row in tidy), default=0)
    return tuple(tuple((row + [""] * width)[:width]) for row in tidy) if width else ()


def _filled(row: list[str]) -> int:
    return next((index + 1 for index in range(len(row) - 1, -1, -1) if row[index]), 0)


def table_markdown(rows: Rows) -> str:
    """As in GitHub's Markdown: the first row is the header."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r\n", "\n").replace("\n", "<br>")
