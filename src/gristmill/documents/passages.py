"""Where a passage stands in a text, whatever white space either of them has: models and PDFs break lines as they like."""

import bisect
import itertools
import re


class Passages:
    """One text, ready to be searched. CPU: about 0.1 s to make for a book; from the event loop, make it in a thread."""

    def __init__(self, text: str) -> None:
        words = [(match.start(), match[0]) for match in re.finditer(r"\S+", text)]
        self._starts = [start for start, _ in words]
        self._bare = "".join(word for _, word in words)
        self._bare_starts = [0, *itertools.accumulate(len(word) for _, word in words)]

    def find(self, passage: str, first: int = 0, last: int | None = None) -> tuple[int, int] | None:
        """Start and end, in characters of the text, of its first occurrence within `first` to `last`; None: there is none."""
        bare = "".join(passage.split())
        if not bare:
            return None
        at = self._bare.find(bare, self._to_bare(first), None if last is None else self._to_bare(last))
        return None if at < 0 else (self._to_text(at), self._to_text(at + len(bare) - 1) + 1)

    def _to_text(self, at: int) -> int:
        word = bisect.bisect_right(self._bare_starts, at) - 1
        return self._starts[word] + at - self._bare_starts[word]

    def _to_bare(self, at: int) -> int:
        """How many characters that are no white space stand before this one."""
        word = bisect.bisect_right(self._starts, at) - 1
        if word < 0:
            return 0
        return min(self._bare_starts[word] + at - self._starts[word], self._bare_starts[word + 1])
