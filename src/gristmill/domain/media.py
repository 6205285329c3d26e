"""What kind of file some bytes are: by the bytes. The name only tells one kind of text from another."""

import re
from collections.abc import Iterator
from pathlib import PurePath

HEAD_BYTES = 4096  # what is needed of a file's beginning
TAIL_BYTES = 256 * 1024  # and of its end: a zip's list of members, of some thousand members

_PACKAGE = "application/vnd.openxmlformats-officedocument"
_ZIP = "application/zip"
ARCHIVES = frozenset(
    {
        _ZIP,
        "application/gzip",
        "application/x-7z-compressed",
        "application/x-bzip2",
        "application/x-xz",
        "application/vnd.rar",
    }
)
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"{\\rtf", "application/rtf"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),  # doc, xls, ppt, encrypted docx
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
)
_PDF_WITHIN = 1024  # readers take a PDF that begins within so many bytes
# The first member of these is called `mimetype`, is not compressed, and says what they are.
_SELF_NAMED = frozenset(
    {
        b"application/epub+zip",
        b"application/vnd.oasis.opendocument.text",
        b"application/vnd.oasis.opendocument.spreadsheet",
        b"application/vnd.oasis.opendocument.presentation",
    }
)
_OFFICE = (
    (b"word/", f"{_PACKAGE}.wordprocessingml.document"),
    (b"xl/", f"{_PACKAGE}.spreadsheetml.sheet"),
    (b"ppt/", f"{_PACKAGE}.presentationml.presentation"),
)
_TEXT_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".csv": "text/csv",
    ".html": "text/html",
    ".htm": "text/html",
    ".xml": "text/xml",
    ".json": "application/json",
    ".jsonl": "text/plain",
}
_HEADER = rb"(?:received|from|to|return-path|delivered-to|mime-version|date|subject|message-id|x-[\w-]+)"
_MAIL = re.compile(rb"%s:[^\n]*\n(?:[ \t][^\n]*\n)*%s:" % (_HEADER, _HEADER), re.IGNORECASE)


def media_type(head: bytes, tail: bytes, filename: str, *, is_text: bool) -> str:
    """`head` and `tail`: the file's first HEAD_BYTES and last TAIL_BYTES. `is_text`: UTF-8 without NUL, all of it."""
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if b"%PDF-" in head[:_PDF_WITHIN]:
        return "application/pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(head, tail)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return _kind_of_text(head, filename) if is_text else "application/octet-stream"


def _kind_of_text(head: bytes, filename: str) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = start[:1024].lower()
    if lowered.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    if lowered.startswith(b"<?xml"):
        return "text/html" if b"<html" in lowered else "text/xml"
    if _MAIL.match(start):
        return "message/rfc822"
    return _TEXT_TYPES.get(PurePath(filename).suffix.lower(), "text/plain")


def _kind_of_zip(head: bytes, tail: bytes) -> str:
    if head[30:38] == b"mimetype":
        for named in _SELF_NAMED:
            if head[38:].startswith(named):
                return named.decode()
    members = set(_members(tail))
    if b"[Content_Types].xml" in members:
        for folder, found in _OFFICE:
            if any(member.startswith(folder) for member in members):
                return found
    return _ZIP


def _members(tail: bytes) -> Iterator[bytes]:
    """Names in a zip's directory, which stands at its end (APPNOTE 4.3.12, 4.3.16); none if it is not all there."""
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    at = end - size
    while 0 <= at < end and tail[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = (int.from_bytes(tail[at + n : at + n + 2], "little") for n in (28, 30, 32))
        yield tail[at + 46 : at + 46 + name]
        at += 46 + name + extra + comment
