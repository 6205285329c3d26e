"""Files made by real producers: pandoc, reportlab, XlsxWriter, xlwt, pypdf, and Python's own email package.

Only `ods` is built by hand: no producer of it is at hand that is worth its size.
"""

import datetime
import email.message
import email.policy
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pypandoc
import xlsxwriter
import xlwt
from PIL import Image, ImageDraw
from pypdf import PdfReader, PdfWriter
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table, TableStyle

STORY = """---
title: The mill
author: Ada Miller
---

# The mill by the river

The old *mill* grinds **grain** to [flour](https://example.org/flour).[^1] Größe, naïve, 水車.

## Its parts

1. Stone
2. Wheel
    - axle
    - paddle

- one
- two

| Part | Count |
|------|-------|
| Stone | 2 |
| Wheel \\| rim | 1 |

### The end

These are the last words about the mill, which is old and stands by the river.

[^1]: Only on working days.
"""
_A_DAY = datetime.datetime(2026, 11, 25)
ROWS = (("Part", "Count"), ("Stone", "2"), ("Wheel | rim", "1"))


def pandoc(path: Path) -> None:
    pypandoc.convert_text(
        STORY, path.suffix[1:], "markdown", outputfile=str(path), extra_args=["--standalone"]
    )


def pdf(path: Path) -> None:
    style = getSampleStyleSheet()
    table = Table([list(row) for row in ROWS], style=TableStyle([("GRID", (0, 0), (-1, -1), 1, "black")]))
    SimpleDocTemplate(str(path), pagesize=A4, title="The mill", author="Ada Miller").build(
        [
            Paragraph("The mill by the river", style["Heading1"]),
            *[Paragraph(f"The old mill grinds grain to flour, and this is sentence {n}.", style["Normal"]) for n in range(20)],
            table,
            PageBreak(),
            Paragraph("These are the last words about the mill.", style["Normal"]),
        ]
    )  # fmt: skip


def scanned_pdf(path: Path) -> None:
    """A picture of words, as from a scanner: 1 page."""
    picture = Image.new("L", (1240, 1754), 255)
    ImageDraw.Draw(picture).text((200, 200), "These words are a picture.", fill=0, font_size=60)
    picture.save(path, "PDF", resolution=150)


def half_scanned_pdf(path: Path) -> None:
    """The pages of `pdf` with a scanned one between them."""
    typed, scanned = io.BytesIO(), io.BytesIO()
    for make, into in ((pdf, typed), (scanned_pdf, scanned)):
        make(path)
        into.write(path.read_bytes())
    writer = PdfWriter()
    pages = PdfReader(typed).pages
    for page in (pages[0], PdfReader(scanned).pages[0], pages[1]):
        writer.add_page(page)
    writer.write(path)


def encrypted_pdf(path: Path) -> None:
    pdf(path)
    writer = PdfWriter(clone_from=io.BytesIO(path.read_bytes()))
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(path)


def xlsx(path: Path) -> None:
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("Parts")
        for number, row in enumerate(ROWS):
            sheet.write_row(number, 0, row)
        sheet.write(3, 0, "Sum")
        sheet.write_formula(3, 1, "=B2+B3", None, 3)
        more = book.add_worksheet("Days")
        more.write_row(0, 0, ["Day", "Open"])
        more.write_datetime(1, 0, _A_DAY, book.add_format({"num_format": "yyyy-mm-dd"}))
        more.write_boolean(1, 1, True)
        more.write_number(2, 1, 0.5)


def xls(path: Path) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Parts")
    for number, row in enumerate(ROWS):
        for column, value in enumerate(row):
            sheet.write(number, column, value)
    book.save(str(path))


_ODS_CELL = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
_ODS = """<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0">
<office:body><office:spreadsheet><table:table table:name="Parts">{}</table:table></office:spreadsheet></office:body>
</office:document-content>"""


def ods(path: Path) -> None:
    """By hand."""
    rows = ("".join(_ODS_CELL.format(cell) for cell in row) for row in ROWS)
    content = _ODS.format("".join(f"<table:table-row>{cells}</table:table-row>" for cells in rows))
    manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr("content.xml", content)


def eml(path: Path) -> None:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Ada Müller <ada@example.org>"
    message["To"] = "bob@example.org"
    message["Subject"] = "The mill — Größe"
    message["Date"] = "Wed, 25 Nov 2026 09:00:00 +0000"
    message.set_content("The old mill grinds grain to flour. Größe.\n", charset="iso-8859-1")
    message.add_alternative("<p>The <b>old</b> mill</p>", subtype="html")
    message.add_attachment(b"\x00\x01", maintype="application", subtype="octet-stream", filename="wheel.bin")
    path.write_bytes(message.as_bytes())


PRODUCERS: dict[str, Callable[[Path], None]] = {
    "story.docx": pandoc,
    "story.odt": pandoc,
    "story.epub": pandoc,
    "story.pptx": pandoc,
    "story.rtf": pandoc,
    "story.html": pandoc,
    "typed.pdf": pdf,
    "scanned.pdf": scanned_pdf,
    "half-scanned.pdf": half_scanned_pdf,
    "encrypted.pdf": encrypted_pdf,
    "parts.xlsx": xlsx,
    "parts.xls": xls,
    "parts.ods": ods,
    "letter.eml": eml,
}
