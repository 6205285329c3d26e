"""A document cut into chunks that a model or an index can take, on the borders of headings, paragraphs and sentences.

CPU only: about 0.1 s for a book. From the event loop, call it in a thread.
"""

import bisect
import importlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.documents.document import PAGE_BREAK, Document
from gristmill.documents.refusal import extra_missing

Strategy = Literal["basic", "by_title", "none"]
MAX_CHARACTERS = 1536  # the defaults are those of Nexent's data process
NEW_AFTER = 1024

_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(\S.*?)(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_WINDOW = 20_000  # characters given to the splitter at a time: it takes more than linear time on some texts


@dataclass(frozen=True, slots=True)
class Chunk:
    """`document.markdown[start : start + len(text)] == text`. `page` is where it begins."""

    index: int  # from 0
    text: str
    page: int  # from 1
    start: int  # characters into `Document.markdown`
    heading: str | None  # the nearest above it, or its own first line


def chunks(
    document: Document,
    max_characters: int = MAX_CHARACTERS,
    new_after: int = NEW_AFTER,
    strategy: Strategy = "basic",
) -> list[Chunk]:
    """None is longer than `max_characters`, and none is empty; `none` is the exception: one chunk, whatever its length.

    `basic` fills each chunk up to between `new_after` and `max_characters`, `by_title` begins a new one at each heading.
    Raises ValueError for limits that make no sense, Refused (`extra_missing`).
    """
    if not 1 <= new_after <= max_characters:
        raise ValueError("new_after must be at least 1 and at most max_characters")
    text = document.markdown
    headings = list(_headings(text))
    pieces = _pieces(text, headings, (new_after, max_characters), strategy)
    found = [(start, piece) for start, piece in pieces if piece]
    return _placed(document, headings, found)


def _placed(document: Document, headings: list[tuple[int, str]], found: list[tuple[int, str]]) -> list[Chunk]:
    page_starts = list(_page_starts(document))
    heading_starts = [start for start, _ in headings]
    placed = []
    for index, (start, text) in enumerate(found):
        page = document.pages[bisect.bisect_right(page_starts, start) - 1].number
        above = bisect.bisect_right(heading_starts, start) - 1
        placed.append(Chunk(index, text, page, start, headings[above][1] if above >= 0 else None))
    return placed


def _page_starts(document: Document) -> Iterator[int]:
    start = 0
    for page in document.pages:
        yield start
        start += len(page.markdown) + len(PAGE_BREAK)


def _pieces(
    text: str, headings: list[tuple[int, str]], capacity: tuple[int, int], strategy: Strategy
) -> Iterator[tuple[int, str]]:
    if strategy == "none":
        yield _trimmed(0, text)
        return
    borders = [0, *(_sections(text, headings) if strategy == "by_title" else ()), len(text)]
    for first, last in itertools.pairwise(borders):
        for start, end in _windows(text, first, last):
            if end - start <= capacity[1] and strategy == "by_title":
                yield _trimmed(start, text[start:end])
            else:
                yield from _split(text, start, end, capacity)


def _split(text: str, start: int, end: int, capacity: tuple[int, int]) -> Iterator[tuple[int, str]]:
    """A heading that the splitter would leave alone, because a long paragraph follows, gets the first sentences of it."""
    splitter = _library().MarkdownSplitter(capacity)
    while start < end:
        pieces = [(start + offset, piece) for offset, piece in splitter.chunk_indices(text[start:end])]
        start = end
        for (at, piece), (body, _) in itertools.zip_longest(pieces, pieces[1:], fillvalue=(end, "")):
            room = capacity[1] - (body - at)
            if body < end and room >= capacity[1] // 4 and _only_headings(piece):
                shorter = _library().MarkdownSplitter((min(capacity[0], room), room))
                offset, sentences = shorter.chunk_indices(text[body : min(body + 4 * capacity[1], end)])[0]
                start = body + offset + len(sentences)
                yield at, text[at:start]
                break
            yield at, piece


def _only_headings(text: str) -> bool:
    return all(_HEADING.match(line) or not line.strip() for line in text.split("\n"))


def _sections(text: str, headings: list[tuple[int, str]]) -> Iterator[int]:
    """Where sections begin. Headings with nothing between them begin one section."""
    before = 0
    for start, _ in headings:
        if not _only_headings(text[before:start]):
            yield start
            before = start


def _windows(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cut at a heading if there is one in the second half, else at an empty line, else anywhere."""
    while last - first > _WINDOW:
        middle, end = first + _WINDOW // 2, first + _WINDOW
        cut = max(text.rfind(border, middle, end) for border in ("\n\n# ", "\n\n## ", "\n\n### "))
        cut = cut if cut > 0 else text.rfind("\n\n", middle, end)
        cut = cut if cut > 0 else end
        yield first, cut
        first = cut
    yield first, last


def _headings(text: str) -> Iterator[tuple[int, str]]:
    """Those that are not inside of fenced code."""
    start, fence = 0, ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or (mark[1].startswith(fence) and not line.strip(" `~"))):
            fence = "" if fence else mark[1]
        elif not fence and (heading := _HEADING.match(line)):
            yield start, heading[1]
        start += len(line) + 1


def _trimmed(start: int, text: str) -> tuple[int, str]:
    left = text.lstrip()
    return start + len(text) - len(left), left.rstrip()


def _library() -> Any:
    try:
        return importlib.import_module("semantic_text_splitter")
    except ImportError as error:
        raise extra_missing("semantic_text_splitter") from error
