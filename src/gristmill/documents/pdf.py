"""PDF with a text layer: LiteParse (PDFium) for text, headings, lists and tables, pypdf where that gives up.

Left out: running heads and feet, pictures, annotations, form fields. A page of pictures without text is `scanned`: its words
are not read.
"""

import io
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from liteparse import LiteParse, ParseError
from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

from gristmill.documents import markdown
from gristmill.documents.document import Page, Table
from gristmill.documents.flow import rectangle
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

_BATCH_PAGES = 100  # parsed at a time, so that a long manual is never in memory as a whole
_SCAN_CHARACTERS = 16  # a scanned page may still have a number or a stamp as text
_DATE = re.compile(r"D:(\d{4})(\d{2})(\d{2})")
_METADATA = {
    "/Title": "title", "/Author": "author", "/Subject": "subject", "/Keywords": "keywords",
    "/CreationDate": "created", "/ModDate": "modified", "/Producer": "producer",
}  # fmt: skip


def read(source: Source) -> Reading:
    data = source.data()
    if source.engine == "liteparse":
        try:
            pages, total = _by_liteparse(data, source)
            return Reading(pages, _metadata(data), total)
        except ParseError as error:
            if "password" in str(error):
                raise Refused("encrypted") from error
    return _by_pypdf(data, source)


def _by_liteparse(data: bytes, source: Source) -> tuple[tuple[Page, ...], int | None]:
    """The pages, and how many there are; None: no more than these."""
    # OCR is on by default and looks for its data on the network.
    parser = LiteParse(
        ocr_enabled=False,
        output_format="markdown",
        quiet=True,
        extract_blocks=True,
        include_complexity=True,
        continue_on_page_error=True,
    )
    last = source.limits.pages if source.last_page is None else source.last_page
    pages: list[Page] = []
    for batch in parser.parse_batches(data, min(_BATCH_PAGES, last)):
        if batch.total_pages > source.limits.pages:
            raise too_complex(f"It has more than {source.limits.pages:,} pages.")
        pages += _numbered(batch)
        if len(pages) >= last:
            return tuple(pages[:last]), batch.total_pages
    return tuple(pages), None


def _numbered(batch: Any) -> Iterator[Page]:
    """A page that failed is there, and empty."""
    found = {page.page_num: page for page in batch.result.pages}
    for number in range(batch.start_page, batch.end_page + 1):
        yield _page(number, found[number]) if number in found else Page(number, "", "")


def _page(number: int, page: Any) -> Page:
    tables = (_rows(block) for block in page.blocks or () if block.kind == "table")
    shape = page.complexity
    pictures = shape is not None and (shape.full_page_image or shape.has_substantial_images)
    body = page.markdown.strip("\n")
    text = markdown.plain(body)
    return Page(
        number,
        text,
        body,
        tuple(Table(number, rows) for rows in tables if rows),
        scanned=bool(pictures) and len(text.strip()) < _SCAN_CHARACTERS,
    )


def _rows(block: Any) -> tuple[tuple[str, ...], ...]:
    rows = [block.header or [], *(block.rows or [])]
    return rectangle([[markdown.inline(cell.text) for cell in row] for row in rows if row])


def _metadata(data: bytes) -> dict[str, str]:
    try:
        return _described(PdfReader(io.BytesIO(data)))
    except Exception:  # the pages are there already; whatever is wrong with the rest is not worth a failure
        return {}


def _described(reader: PdfReader) -> dict[str, str]:
    given: Mapping[str, Any] = reader.metadata or {}
    found = {name: str(given[key]).strip() for key, name in _METADATA.items() if given.get(key)}
    for name in ("created", "modified"):
        if (date := _DATE.match(found.get(name, ""))) is not None:
            found[name] = "-".join(date.groups())
    return found


def _by_pypdf(data: bytes, source: Source) -> Reading:
    """Text only. Raises Refused; what else it raises is `document_broken`, too."""
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refused("encrypted")
        if len(reader.pages) > source.limits.pages:
            raise too_complex(f"It has more than {source.limits.pages:,} pages.")
        total = len(reader.pages)
        wanted = islice(reader.pages, source.last_page)
        pages = tuple(_plain_page(number, page) for number, page in enumerate(wanted, 1))
    except (FileNotDecryptedError, WrongPasswordError, DependencyError) as error:
        raise Refused("encrypted") from error
    warning = "read without tables and headings: the usual reader could not"
    return Reading(pages, _described(reader) | {"warning": warning}, total)


def _plain_page(number: int, page: Any) -> Page:
    try:
        text = page.extract_text().strip("\n")
    except (MemoryError, RecursionError, FileNotDecryptedError):
        raise
    except Exception:  # one page's trouble is not the others'
        text = ""
    return Page(number, text, text, scanned=len(text.strip()) < _SCAN_CHARACTERS and _has_picture(page))


def _has_picture(page: Any) -> bool:
    try:
        objects = page["/Resources"]["/XObject"]
        return any(objects[name]["/Subtype"] == "/Image" for name in list(objects)[:100])
    except Exception:  # damaged or absent: no picture that we know of
        return False
