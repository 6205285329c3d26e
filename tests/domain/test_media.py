"""Kinds of files are told by their bytes."""

import io
import zipfile

import pytest

from gristmill.domain.inspection import Inspection

OFFICE = "application/vnd.openxmlformats-officedocument"
OPEN = "application/vnd.oasis.opendocument"


def kind(data: bytes, filename: str = "x", size: int = 1 << 20) -> str:
    inspection = Inspection()
    for at in range(0, len(data), size):
        inspection.feed(data[at : at + size])
    return inspection.media_type(filename)


def package(
    *names: str, first: tuple[str, bytes] | None = None, comment: bytes = b"", padding: int = 0
) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        if first:
            archive.writestr(zipfile.ZipInfo(first[0]), first[1])
        for name in names:
            archive.writestr(name, "<x/>")
        if padding:
            archive.writestr(zipfile.ZipInfo("media/picture"), bytes(padding))
        archive.comment = comment
    return made.getvalue()


WORD = ("[Content_Types].xml", "_rels/.rels", "word/document.xml")


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (package(*WORD), f"{OFFICE}.wordprocessingml.document"),
        (package(*WORD[::-1]), f"{OFFICE}.wordprocessingml.document"),
        (package(*WORD, comment=b"PK\x03\x04"), f"{OFFICE}.wordprocessingml.document"),
        (package(*WORD, padding=3_000_000), f"{OFFICE}.wordprocessingml.document"),
        (package("[Content_Types].xml", "xl/workbook.xml"), f"{OFFICE}.spreadsheetml.sheet"),
        (package("[Content_Types].xml", "ppt/presentation.xml"), f"{OFFICE}.presentationml.presentation"),
        (package("content.xml", first=("mimetype", f"{OPEN}.text".encode())), f"{OPEN}.text"),
        (package("content.xml", first=("mimetype", f"{OPEN}.spreadsheet".encode())), f"{OPEN}.spreadsheet"),
        (package("x.opf", first=("mimetype", b"application/epub+zip")), "application/epub+zip"),
        (package("x.opf", first=("mimetype", b"text/html")), "application/zip"),
        (package("word/document.xml"), "application/zip"),
        (package("a.txt"), "application/zip"),
        (package(*WORD)[:-1], "application/zip"),
        (package(), "application/zip"),
        (b"{\\rtf1\\ansi hello}", "application/rtf"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "application/x-ole-storage"),
        (b"\n\n%PDF-1.4\n%\xe2\xe3", "application/pdf"),
        (b"II*\0" + bytes(9), "image/tiff"),
        (b"\x1f\x8b\x08" + bytes(9), "application/gzip"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(9), "application/x-7z-compressed"),
        (b" <!DOCTYPE html><title>a</title>", "text/html"),
        (b"\xef\xbb\xbf<HTML>", "text/html"),
        (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'/>", "text/html"),
        (b"<?xml version='1.0'?><a/>", "text/xml"),
        (b"Received: from a\r\n\tby b\r\nDate: today\r\n\r\nhi", "message/rfc822"),
        (b"From: Ann\nTo: Bob\n\nhi", "message/rfc822"),
        (b"From: a story\nby somebody", "text/plain"),
        (b"<h1 align=center>A readme</h1>", "text/plain"),
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 1000])
def test_the_bytes_say_what_it_is(data: bytes, media_type: str, size: int) -> None:
    assert kind(data, "misleading.bin", size) == media_type


@pytest.mark.parametrize(
    "tail",
    [
        b"PK\x05\x06",
        b"PK\x05\x06" + b"\xff" * 18,
        b"PK\x05\x06" + b"\0" * 18,
        b"PK\x01\x02" + b"\xff" * 42 + b"PK\x05\x06" + bytes(8) + b"\x2e\0\0\0" + bytes(6),
        b"PK\x01\x02" + bytes(42) + b"PK\x05\x06" + bytes(8) + b"\x2e\0\0\0" + bytes(6),
    ],
)
def test_a_directory_that_lies_is_just_a_zip(tail: bytes) -> None:
    assert kind(b"PK\x03\x04" + bytes(50) + tail) == "application/zip"
