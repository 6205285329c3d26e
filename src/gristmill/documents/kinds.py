"""What kind of file it is, by what is in it. Its name only breaks ties among kinds of text, which have no mark."""

import re
import zipfile
from typing import IO

from gristmill.documents import archive, encoding
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import Refused
from gristmill.documents.source import Source

_HEAD = 8192
_OFFICE = "application/vnd.openxmlformats-officedocument."
DOCX = _OFFICE + "wordprocessingml.document"
PPTX = _OFFICE + "presentationml.presentation"
XLSX = _OFFICE + "spreadsheetml.sheet"
XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"
XLS = "application/vnd.ms-excel"
ODT = "application/vnd.oasis.opendocument.text"
ODP = "application/vnd.oasis.opendocument.presentation"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
EPUB = "application/epub+zip"
PDF = "application/pdf"
RTF = "application/rtf"
EML = "message/rfc822"
HTML = "text/html"
XML = "application/xml"
JSON = "application/json"
JSONL = "application/x-ndjson"
CSV = "text/csv"
TSV = "text/tab-separated-values"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

_PARTS = {
    "word/document.xml": DOCX,
    "ppt/presentation.xml": PPTX,
    "xl/workbook.xml": XLSX,
    "xl/workbook.bin": XLSB,
}
_MIMETYPES = {kind + extra: kind for kind in (ODT, ODP, ODS) for extra in ("", "-template")} | {EPUB: EPUB}
_STREAMS = (  # of OLE2 files, whose directory holds names in UTF-16
    ("EncryptedPackage", "encrypted"),
    ("WordDocument", "doc"),
    ("PowerPoint Document", "ppt"),
    ("__properties_version1.0", "msg"),
    ("Workbook", XLS),
    ("Book", XLS),
)
_LEGACY = {"doc": "docx", "ppt": "pptx", "msg": "eml"}
_SUFFIXES = {
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".json": JSON, ".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".tsv": TSV,
    ".htm": HTML, ".html": HTML, ".xhtml": HTML, ".xml": XML, ".eml": EML,
}  # fmt: skip
_MAIL = re.compile(
    rb"(?:^|\n)(?:From|Date|Message-ID|Received|Return-Path|MIME-Version|Subject|To): ?\S", re.IGNORECASE
)
_HTML_START = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_HEADER_LINE = re.compile(rb"[!-9;-~]+:[ \t]?")


def kind_of(source: Source) -> str:
    """The media type. Raises Refused: `unsupported_type`, `encrypted`, `empty_document`, or what `archive` raises."""
    source.file.seek(0)
    head = source.file.read(_HEAD)
    source.file.seek(0)
    if not head.strip(b"\x00 \t\r\n\xef\xbb\xbf"):
        raise Refused("empty_document")
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archived(source.file, source.limits)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _compound(source.data())
    if head.startswith(b"{\\rtf"):
        return RTF
    if not encoding.is_text(head):
        raise Refused("unsupported_type")
    return _text(head, source.suffix)


def _archived(file: IO[bytes], limits: Limits) -> str:
    with archive.opened(file, limits) as opened:
        names = set(opened.namelist())
        for name, kind in _PARTS.items():
            if name in names:
                return kind
        if "mimetype" in names:
            return _declared(opened, limits)
        if "META-INF/container.xml" in names:
            return EPUB
        if "[Content_Types].xml" in names:
            return _by_content_types(opened, limits)
    raise Refused(
        "unsupported_type",
        "An archive is not a document.",
        "Send the files in it one by one, or as a directory.",
    )


def _declared(opened: zipfile.ZipFile, limits: Limits) -> str:
    said = (archive.member(opened, "mimetype", limits) or b"")[:200].decode("ascii", "replace").strip()
    if said not in _MIMETYPES:
        raise Refused("unsupported_type")
    return _MIMETYPES[said]


def _by_content_types(opened: zipfile.ZipFile, limits: Limits) -> str:
    """Some producers name the main part otherwise."""
    types = archive.member(opened, "[Content_Types].xml", limits) or b""
    for mark, kind in (
        (b"wordprocessingml.document.main", DOCX),
        (b"presentationml.", PPTX),
        (b"spreadsheetml.", XLSX),
    ):
        if mark in types:
            return kind
    raise Refused("unsupported_type")


def _compound(data: bytes) -> str:
    kind = next((kind for name, kind in _STREAMS if _entry(name) in data), None)
    if kind is None:
        raise Refused("unsupported_type")
    if kind == "encrypted":
        raise Refused("encrypted")
    if kind in _LEGACY:
        raise Refused(
            "unsupported_type",
            f"The old format {kind} cannot be read.",
            f"Save it as {_LEGACY[kind]}, then send it again.",
        )
    return kind


def _entry(name: str) -> bytes:
    """A directory entry's name with the zero that ends it."""
    return (name + "\x00").encode("utf-16-le")


def _text(head: bytes, suffix: str) -> str:
    if _HTML_START.match(head.removeprefix(b"\xef\xbb\xbf")):
        return HTML
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml"):
        return HTML if b"http://www.w3.org/1999/xhtml" in head else XML
    named = _SUFFIXES.get(suffix)
    if named is None and _HEADER_LINE.match(head) and len(_MAIL.findall(head)) >= 2:
        return EML
    return named or TEXT
