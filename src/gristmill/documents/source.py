"""What a reader is given and what it gives back."""

from dataclasses import dataclass, field
from typing import IO, Literal

from gristmill.documents.document import Page
from gristmill.documents.limits import Limits

# For PDF: the second is slower, and survives what crashes the first. `image`: it is none, and only looked at.
Engine = Literal["liteparse", "pypdf", "image"]


@dataclass(frozen=True, slots=True)
class Source:
    file: IO[bytes]
    suffix: str  # of the name it was sent under, in lower case, with the dot: only breaks ties among kinds of text
    limits: Limits
    engine: Engine = "liteparse"
    last_page: int | None = None  # pages behind it need not be read: saves time with long PDFs

    def data(self) -> bytes:
        self.file.seek(0)
        return self.file.read()


@dataclass(frozen=True, slots=True)
class Reading:
    pages: tuple[Page, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    total_pages: int | None = None  # None: as many as `pages`


def single(text: str, markdown: str | None = None, metadata: dict[str, str] | None = None) -> Reading:
    """Of a kind of file that has no pages."""
    return Reading((Page(1, text, text if markdown is None else markdown),), metadata or {})
