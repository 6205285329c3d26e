"""A text in chunks that end where a paragraph or a sentence does, as far as their size allows."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

Strategy = Literal["basic", "by_title", "none"]

_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCES = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")
_HEADING = re.compile(r"#{1,6}\s")


def split(text: str, strategy: Strategy, max_characters: int, new_after: int) -> list[str]:
    """Chunks of at most `max_characters`, none of them blank; one with `new_after` or more takes nothing more.

    With `none` the text is one chunk, whatever its size.
    """
    if strategy == "none":
        return [text] if text.strip() else []
    parts = [_Part(part, heading) for part, heading in _parts(text, max_characters)]
    return list(_packed(parts, max_characters, new_after, by_title=strategy == "by_title"))


class _Part(str):
    """A paragraph, or a piece of a long one."""

    heading: bool

    def __new__(cls, text: str, heading: bool) -> "_Part":
        made = super().__new__(cls, text)
        made.heading = heading
        return made


def _parts(text: str, most: int) -> Iterator[tuple[str, bool]]:
    for paragraph in _PARAGRAPHS.split(text):
        stripped = paragraph.strip()
        if stripped:
            pieces = [stripped] if len(stripped) <= most else _cut(_SENTENCES.split(stripped), most)
            for number, piece in enumerate(pieces):
                yield piece, number == 0 and _HEADING.match(piece) is not None


def _cut(sentences: Iterable[str], most: int) -> Iterator[str]:
    """Sentences; one that is too long ends at a space, or where it must."""
    for sentence in sentences:
        rest = sentence.strip()
        while len(rest) > most:
            end = rest.rfind(" ", 1, most + 1)
            end = end if end > most // 2 else most
            yield rest[:end].rstrip()
            rest = rest[end:].lstrip()
        if rest:
            yield rest


def _packed(parts: Sequence[_Part], most: int, new_after: int, *, by_title: bool) -> Iterator[str]:
    chunk = ""
    for part in parts:
        joined = f"{chunk}\n\n{part}" if chunk else str(part)
        if chunk and (len(chunk) >= new_after or len(joined) > most or (by_title and part.heading)):
            yield chunk
            joined = str(part)
        chunk = joined
    if chunk:
        yield chunk
