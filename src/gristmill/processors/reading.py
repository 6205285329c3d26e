"""What a model is asked about: the wanted pages of a document, and where they stand in the whole of it."""

import asyncio
import hashlib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from gristmill.documents import Document
from gristmill.documents import Refused as NotRead
from gristmill.documents.chunks import Chunk, Strategy, chunks
from gristmill.documents.document import PAGE_BREAK
from gristmill.documents.passages import Passages
from gristmill.domain.outcomes import Failure, ItemError
from gristmill.processors import documents
from gristmill.processors.base import Context
from gristmill.processors.documents import DocumentInput, PageRange
from gristmill.processors.refusals import Refused


@dataclass(frozen=True, slots=True)
class Place:
    """`start` and `end`: characters into `Document.markdown` of the whole document. `page` None: a text has none."""

    start: int
    end: int
    page: int | None

    def as_json(self) -> dict[str, Any]:
        return {"page": self.page, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Reading:
    document: Document  # with the wanted pages only
    filename: str | None
    offset: int  # characters of the whole document's Markdown before these pages
    paged: bool
    passages: Passages
    _page_starts: list[int] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Whether a checkpoint is of the same text: what stands behind a URL may change."""
        return hashlib.sha256(self.document.markdown.encode("utf-8", "replace")).hexdigest()

    def find(self, passage: str, first: int = 0, last: int | None = None) -> Place | None:
        """Within `first` to `last` of these pages' Markdown, else anywhere in it."""
        found = self.passages.find(passage, first, last) or self.passages.find(passage)
        if found is None:
            return None
        start, end = found
        page = self.document.pages[bisect_right(self._page_starts, start) - 1].number
        return Place(start + self.offset, end + self.offset, page if self.paged else None)

    def text(self, place: Place) -> str:
        return self.document.markdown[place.start - self.offset : place.end - self.offset]

    def shown(self) -> dict[str, Any]:
        """For a processor's output."""
        pages = [self.document.pages[0].number, self.document.pages[-1].number] if self.paged else None
        return {"filename": self.filename, "language": self.document.language, "pages": pages}


async def read(given: DocumentInput, context: Context[Any], wanted: PageRange) -> Reading:
    """Raises Refused, also where there is no text; SourceRefused."""
    whole, filename = await documents.read(given, context, last_page=wanted.last_wanted)
    part = wanted.of(whole)
    if not part.text.strip():  # scanned pages have no more than Markdown's marks
        raise Refused(_no_text())
    before = [page for page in whole.pages if page.number < part.pages[0].number]
    offset = sum(len(page.markdown) + len(PAGE_BREAK) for page in before)
    passages = await asyncio.to_thread(Passages, part.markdown)
    return Reading(part, filename, offset, given.text is None, passages, _starts(part))


async def chunked(
    reading: Reading, max_characters: int, new_after: int, strategy: Strategy = "basic"
) -> list[Chunk]:
    """Raises Refused."""
    try:
        return await asyncio.to_thread(
            chunks, reading.document, max_characters, min(new_after, max_characters), strategy
        )
    except NotRead as refused:
        raise documents.not_read(refused) from None


def _starts(document: Document) -> list[int]:
    starts, start = [], 0
    for page in document.pages:
        starts.append(start)
        start += len(page.markdown) + len(PAGE_BREAK)
    return starts


def _no_text() -> Failure:
    message = "There is no text in it to ask a model about."
    suggestion = "Check that it is not empty. A scanned document has to go through text recognition first."
    return Failure(ItemError(400, "no_text", message, suggestion=suggestion))
