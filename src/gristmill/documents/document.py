"""What was read: pages with their text, Markdown and tables."""

import csv
import io
from dataclasses import dataclass, field
from functools import cached_property

PAGE_BREAK = "\n\n"  # between the pages in `Document.text` and `Document.markdown`


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length; the first is the header where the kind of file says so, else just the first."""

    page: int  # from 1
    rows: tuple[tuple[str, ...], ...]

    def csv(self) -> str:
        """RFC 4180, with line feeds."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(self.rows)
        return out.getvalue()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a PDF, a slide, a sheet, a part of an EPUB, or the whole of a file that has no pages.

    `scanned`: it shows images and has no text layer, so its text is empty or nearly so.
    """

    number: int  # from 1
    text: str
    markdown: str
    tables: tuple[Table, ...] = ()
    scanned: bool = False


@dataclass(frozen=True)
class Document:
    """`metadata`: title, author, subject and the like as the file has them, and what we noticed (`warning`)."""

    media_type: str
    pages: tuple[Page, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    language: str | None = None  # ISO 639-1; None: too little text to tell
    total_pages: int | None = None  # where only the first were read, how many there are

    @property
    def page_count(self) -> int:
        """Of the whole document, whether they were all read or not."""
        return len(self.pages) if self.total_pages is None else self.total_pages

    @cached_property
    def text(self) -> str:
        return PAGE_BREAK.join(page.text for page in self.pages)

    @cached_property
    def markdown(self) -> str:
        return PAGE_BREAK.join(page.markdown for page in self.pages)

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for page in self.pages for table in page.tables)

    @property
    def scanned(self) -> bool:
        """Nothing but pictures: every page that is not blank is a scan."""
        filled = [page for page in self.pages if page.scanned or page.text.strip()]
        return bool(filled) and all(page.scanned for page in filled)
