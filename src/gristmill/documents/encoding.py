"""Bytes to text when nobody says which encoding."""

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 200_000  # bytes to guess from


def decoded(data: bytes, declared: str | None = None) -> str:
    """A mark at the beginning, then what is declared, then UTF-8, then the best guess. Never fails: what no
    encoding explains becomes U+FFFD. Line ends become \\n."""
    return _text(data, declared).replace("\r\n", "\n").replace("\r", "\n")


def _text(data: bytes, declared: str | None) -> str:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, errors="replace")
    for encoding in (declared, "utf-8"):
        try:
            if encoding:
                return data.decode(encoding)
        except (LookupError, UnicodeError):
            continue
    return data.decode(_guess(data), errors="replace")


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(data[:_SAMPLE]).best()
    return best.encoding if best is not None else "cp1252"


def is_text(head: bytes) -> bool:
    """No NUL and hardly a control character, or a mark that says UTF-16 or UTF-32."""
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return True
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b\b" for byte in head)
    return b"\x00" not in head and controls * 100 <= len(head)
