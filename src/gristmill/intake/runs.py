"""A JSON text with very many values, parsed in runs of some KiB each.

The parser lets no other Python code run before it has come to its end: for a quarter of a million small objects, 50 ms. So the
values of a list, or the fields of an object, are parsed some thousand at a time, whatever they are nested in, and put together.

What is valid comes out the same: each run is parsed in the brackets of what it stands in, and has at least one value.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gristmill.intake.pieces import STRING, behind

WINDOW_BYTES = 64 * 1024  # so much is looked at, and then parsed, at a time: 2 ms
_BLANKS = b" \t\n\r"


def _within(levels: int, but: bytes = b"") -> bytes:
    """What can stand in a list or an object, with so many levels of others in it; without what is in `but`, outside of them."""
    inner = b"" if levels == 0 else rb"|\[%b\]|\{%b\}" % ((_within(levels - 1),) * 2)
    return rb'(?>(?:[^"%b{}\[\]]++|%b%b)*)' % (but, STRING, inner)


# Parts of a child: of what stands between two commas. A list or an object of few levels is one part: the more of them, the
# fewer steps; and the oftener it is looked at in vain.
_PARTS = _within(4, b",")
_CHILDREN = re.compile(rb"(?>(?:" + _PARTS + rb",)*)", re.DOTALL)
_PART = re.compile(_PARTS, re.DOTALL)
_COMMA = re.compile(rb"[ \t\n\r]*+,")
_KEY = re.compile(rb"[ \t\n\r]*+(" + STRING + rb")[ \t\n\r]*+:[ \t\n\r]*+", re.DOTALL)


class Broken(Exception):
    """The text is no JSON: brackets or commas are not in their places, or it ends too soon."""


class TooDeep(Exception):
    """More levels than are allowed."""


@dataclass(slots=True)
class _Open:
    """A list or an object whose end has not come. Places are in the text."""

    bracket: int
    begin: int  # of its bracket
    run: int  # from here on nothing has been parsed
    child: int  # where the child begins that has not come to its end; a comma stands before, or the bracket
    value: Any = None  # what has been parsed of it, if it is not small enough to be a part of a run
    key: Any = None  # of the child that is open, and has a value of its own
    # Before `run` is a child that had a value of its own: a comma must follow, or the end.
    closed: bool = False


def parse(text: bytes, loads: Callable[[bytes], Any], levels: int) -> Any:
    """As `loads` would. Raises Broken, TooDeep, and what `loads` raises."""
    begin = len(text) - len(text.lstrip(_BLANKS))
    if text[begin : begin + 1] not in (b"{", b"["):
        return loads(text)
    return _Runs(text, loads, levels).value(begin)


class _Runs:
    def __init__(self, text: bytes, loads: Callable[[bytes], Any], levels: int) -> None:
        self._text = text
        self._loads = loads
        self._levels = levels
        self._opened: list[_Open] = []

    def value(self, begin: int) -> Any:
        text, opened = self._text, self._opened
        self._open(begin)
        place = begin + 1
        while opened:
            place = self._through_parts(place)
            if place >= len(text):
                raise Broken
            mark = text[place]
            if mark == ord('"'):  # goes on behind the window
                place = behind(text, place + 1)
            elif mark in b"{[":
                self._open(place)
                place += 1
            elif mark in b"}]":
                closed = self._close(mark, place)
                place += 1
                if not opened:
                    return self._whole(closed, place)
                if closed.value is not None:
                    place = self._put(closed.value, place)
        raise AssertionError

    def _through_parts(self, place: int) -> int:
        """To the next mark that matters, or the end of the window."""
        here, end = self._opened[-1], min(place + WINDOW_BYTES, len(self._text))
        children = _CHILDREN.match(self._text, place, end)
        assert children is not None
        if children.end() > place:
            here.child = children.end()
            if here.child - here.run >= WINDOW_BYTES // 2:
                self._flush(here)
        part = _PART.match(self._text, children.end(), end)
        assert part is not None
        return part.end()

    def _open(self, place: int) -> None:
        if len(self._opened) == self._levels:
            raise TooDeep
        self._opened.append(_Open(self._text[place], place, place + 1, place + 1))

    def _close(self, mark: int, place: int) -> _Open:
        here = self._opened.pop()
        if mark != here.bracket + 2:  # as ASCII has them
            raise Broken
        if here.value is not None:
            rest = self._text[here.run : place]
            if not here.closed:
                self._take(here, rest)
            elif rest.strip(_BLANKS):
                raise Broken
        return here

    def _whole(self, root: _Open, place: int) -> Any:
        if root.value is None:
            return self._loads(self._text)
        if self._text[place:].strip(_BLANKS):
            raise Broken
        return root.value

    def _put(self, value: Any, place: int) -> int:
        """A child that was made by itself to what it stands in, which goes on behind the comma."""
        here = self._opened[-1]
        if type(here.value) is list:
            here.value.append(value)
        else:
            here.value[here.key] = value
        comma = _COMMA.match(self._text, place)
        here.closed = comma is None
        here.run = here.child = comma.end() if comma else place
        return here.run

    def _flush(self, here: _Open) -> None:
        """All children that have come to their end."""
        self._begin(len(self._opened) - 1)
        if here.closed:
            raise Broken
        self._take(here, self._text[here.run : here.child - 1])
        here.run = here.child

    def _begin(self, level: int) -> None:
        """Gives it a value of its own, and all that it stands in."""
        here = self._opened[level]
        if here.value is not None:
            return
        if level > 0:
            self._begin(level - 1)
            self._lead(self._opened[level - 1], here.begin)
        here.value = [] if here.bracket == ord("[") else {}

    def _lead(self, around: _Open, place: int) -> None:
        """What stands before a child of it that gets a value of its own, and the child's key."""
        if around.closed:
            raise Broken
        if around.child > around.run:
            self._take(around, self._text[around.run : around.child - 1])
        before = self._text[around.child : place]
        if type(around.value) is list:
            if before.strip(_BLANKS):
                raise Broken
        elif key := _KEY.fullmatch(before):
            around.key = self._loads(key[1])
        else:
            raise Broken

    def _take(self, here: _Open, run: bytes) -> None:
        if not run.strip(_BLANKS):  # a comma too many
            raise Broken
        if type(here.value) is list:
            here.value.extend(self._loads(b"[%s]" % run))
        else:
            here.value.update(self._loads(b"{%s}" % run))
