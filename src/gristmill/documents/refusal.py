"""Why a document was not read: a code for programs, a message and a suggestion for people."""

from typing import Literal, get_args

Code = Literal[
    "unsupported_type",
    "encrypted",
    "empty_document",
    "document_too_large",
    "document_too_complex",
    "document_broken",
    "extra_missing",
    "parser_unavailable",
]
CODES: frozenset[str] = frozenset(get_args(Code))

_TEXTS: dict[Code, tuple[str, str]] = {
    "unsupported_type": (
        "This kind of file cannot be read.",
        "Send text, Markdown, HTML, CSV, JSON, XML, e-mail, RTF, PDF, EPUB, or an Office or OpenDocument file.",
    ),
    "encrypted": (
        "The document is encrypted or needs a password.",
        "Remove the password, then send it again.",
    ),
    "empty_document": (
        "The document has no content.",
        "Check that the file was saved and uploaded completely.",
    ),
    "document_too_large": (
        "The document is larger than the limit.",
        "Split it into several documents.",
    ),
    "document_too_complex": (
        "Reading the document took more time, memory or output than allowed.",
        "Split it, or save it anew from the program that made it.",
    ),
    "document_broken": (
        "The document is damaged and cannot be read.",
        "Open it in the program that made it, save it anew, and send that.",
    ),
    "extra_missing": (
        "This service was installed without the libraries that read documents.",
        "Install gristmill[documents].",
    ),
    "parser_unavailable": (
        "The process that reads documents ended or could not be started.",
        "Try again.",
    ),
}


class Refused(Exception):
    """`message` and `suggestion` never hold anything of the document."""

    def __init__(self, code: Code, message: str | None = None, suggestion: str | None = None) -> None:
        default, advice = _TEXTS[code]
        super().__init__(message or default)
        self.code: Code = code
        self.message = message or default
        self.suggestion = suggestion or advice

    @property
    def retryable(self) -> bool:
        """True where nothing is wrong with the document."""
        return self.code == "parser_unavailable"


def too_complex(what: str) -> Refused:
    """`what`: which limit, such as 'It has more than 10,000 parts.'"""
    return Refused("document_too_complex", f"The document is too complex. {what}")


def extra_missing(module: str) -> Refused:
    return Refused(
        "extra_missing", f"This service lacks the library {module!r}, which is part of the extra `documents`."
    )
