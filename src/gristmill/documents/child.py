"""What a child does: recognise, read, tell the language, write the answer. It has entered the sandbox before."""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterator

from gristmill.documents import (
    docx,
    epub,
    html,
    images,
    kinds,
    language,
    mail,
    opendocument,
    pdf,
    plaintext,
    pptx,
    rtf,
    sheets,
    table_text,
    wire,
)
from gristmill.documents.document import Document
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

READERS: dict[str, Callable[[Source], Reading]] = {
    kinds.TEXT: plaintext.text,
    kinds.MARKDOWN: plaintext.md,
    kinds.JSON: plaintext.json_text,
    kinds.JSONL: plaintext.json_lines,
    kinds.XML: plaintext.xml,
    kinds.HTML: html.read,
    kinds.CSV: table_text.read,
    kinds.TSV: table_text.read,
    kinds.EML: mail.read,
    kinds.RTF: rtf.read,
    kinds.PDF: pdf.read,
    kinds.EPUB: epub.read,
    kinds.DOCX: docx.read,
    kinds.PPTX: pptx.read,
    kinds.ODT: opendocument.read,
    kinds.ODP: opendocument.read,
    kinds.ODS: sheets.read,
    kinds.XLSX: sheets.read,
    kinds.XLSB: sheets.read,
    kinds.XLS: sheets.read,
}


def answer(source: Source, out: int) -> None:
    """Writes lines (`wire.py`) to the descriptor `out`. Whatever happens becomes one of the codes of `refusal.py`."""
    for line in _lines(source):
        view = memoryview(line)
        while view:
            view = view[os.write(out, view) :]


def _lines(source: Source) -> Iterator[bytes]:
    try:
        document = read(source)
        _check_size(document, source.limits.answer_bytes)
    except Refused as refused:
        return iter([wire.refusal(refused)])
    except (MemoryError, RecursionError, NotImplementedError, zipfile.LargeZipFile):
        return iter([wire.refusal(too_complex("It takes more memory or is nested deeper than allowed."))])
    except BaseException:  # a panic of the libraries in Rust is no Exception
        return iter([wire.refusal(Refused("document_broken"))])
    return wire.lines(document)


def read(source: Source) -> Document:
    """Raises Refused, or anything else."""
    if source.engine == "image":
        return images.read(source)
    media_type = kinds.kind_of(source)
    reading = READERS[media_type](source)
    if not any(page.text.strip() or page.scanned for page in reading.pages):
        raise Refused("empty_document")
    document = Document(media_type, reading.pages, reading.metadata, total_pages=reading.total_pages)
    return dataclasses.replace(document, language=language.of(reading.pages))


def _check_size(document: Document, most: int) -> None:
    """Of what will be sent, roughly: before any of it is."""
    size = 0
    for page in document.pages:
        size += len(page.markdown) + (0 if page.text == page.markdown else len(page.text))
        size += sum(len(cell) + 3 for table in page.tables for row in table.rows for cell in row)
    if size > most:
        raise too_complex("Its text is longer than allowed.")
