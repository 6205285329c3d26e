"""A large JSON text in pieces that are parsed one by one.

The parser lets no other Python code run before it has come to its end: a body of 64 MiB would keep the event loop for
more than a second, in whatever thread. So what stands in the lists of the top object (the requests of a batch) is cut out, each
for itself, and in its place `[n]` is left. What has no list or object within is left where it is.

Whether the text is valid comes out the same: every piece is a whole value, and the rest, with values in their places, is
parsed, too. Quotes are told from those in texts by the same rules as the parser's, as far as it would have come.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Of a pattern, a whole string. Atomic groups, not possessive ones: those of CPython up to 3.11.4 stay where they failed (its
# issue 106052).
STRING = rb'"[^"\\]*+(?>(?:\\.[^"\\]*+)*)"'
_MARK = re.compile(rb'["{}\[\]]')
_TEXT = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
# So much is looked through at a time, some milliseconds: between two looks others have their turn.
_WINDOW_BYTES = 256 * 1024
_IN_LIST = b"{["  # what holds the list, and the list itself


@dataclass(frozen=True, slots=True)
class Cut:
    """`pieces` are the values cut out, as (begin, end); `rest` is the text with `[n]` in the place of the n-th."""

    rest: bytes
    pieces: list[tuple[int, int]]


def cut(text: bytes) -> Cut:
    pieces = list(_pieces(text))
    rest: list[bytes] = []
    end = 0
    for number, (begin, following) in enumerate(pieces):
        rest += (text[end:begin], b"[%d]" % number)
        end = following
    rest.append(text[end:])
    return Cut(b"".join(rest), pieces)


def _pieces(text: bytes) -> Iterator[tuple[int, int]]:
    """Of a text that is no JSON, whatever comes out: one of the pieces, or the rest, will not be valid."""
    opened = bytearray()  # the brackets that are open, down to the third
    depth = begin = 0
    for place, mark in _marks(text):
        if mark in b"{[":
            depth += 1
            if depth <= 2:
                opened.append(mark)
            elif depth == 3 and opened == _IN_LIST:
                begin = place
        else:
            if depth == 3 and opened == _IN_LIST:
                yield begin, place + 1
            if depth <= 2:
                del opened[-1:]
            depth = max(0, depth - 1)


def _marks(text: bytes) -> Iterator[tuple[int, int]]:
    """Every bracket outside of texts: its place, and which."""
    place, length = 0, len(text)
    while place < length:
        end = min(place + _WINDOW_BYTES, length)
        found = _MARK.search(text, place, end)
        if found is None:
            place = end
        elif (mark := text[found.start()]) == ord('"'):
            place = behind(text, found.end())
        else:
            place = found.end()
            yield found.start(), mark


def behind(text: bytes, place: int) -> int:
    """Where the string ends that goes on at `place`: behind its quote, or at the end of the text."""
    length = len(text)
    while place < length:
        end = min(place + _WINDOW_BYTES, length)
        found = _TEXT.match(text, place, end)
        assert found is not None
        stopped = found.end()
        if stopped < end and text[stopped] == ord('"'):
            return stopped + 1
        if stopped == place:  # at a backslash which is the last of all
            return length
        place = stopped
    return length
