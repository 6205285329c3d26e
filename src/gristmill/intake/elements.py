"""A JSON object with a large array in it, taken apart while it arrives: one element in memory at a time."""

import re
from typing import Any

from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import json
from gristmill.intake.pieces import STRING
from gristmill.intake.problems import pointer

# Strings whole, so that what looks like a bracket in one is passed over; a lone quote: its end has not arrived.
_TOKEN = re.compile(STRING + rb'|[{}\[\],:"]', re.DOTALL)
# Among the elements, where most of the bytes are: on to the next mark that may matter.
_MARK = re.compile(rb'(?>(?:[^"{}\[\],]++|' + STRING + rb')*)([{}\[\],"])', re.DOTALL)


class Elements:
    """Fed with pieces of the body, answers with the elements of the array called `name` as they stand there, unread.

    `element_bytes` bounds one element, `rest_bytes` all that stands around the array. Raises Invalid: what is wrong with
    the brackets at once, the rest of the syntax when the elements and `rest()` are parsed.
    """

    def __init__(self, name: str, *, element_bytes: int, rest_bytes: int) -> None:
        self._name = name
        self._key = f'"{name}"'.encode()
        self._element_bytes = element_bytes
        self._rest_bytes = rest_bytes
        self._buffer = b""
        self._at = 0  # in the buffer: up to here it has been looked at
        self._from = 0  # in the buffer: where what has not been handed on begins
        self._depth = 0
        self._inside = False
        self._seen = False
        self._string = b""  # the last one at the top level of the object
        self._of = b""  # the key whose value comes
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._found: list[bytes] = []
        self.count = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The elements that are complete now."""
        self._buffer = self._buffer[self._from :] + piece
        self._at -= self._from
        self._from = 0
        while self._through_elements() if self._inside else self._around_them():
            pass
        if not self._inside:
            self._keep(self._at)
            self._check_rest(len(self._buffer) - self._at)
        elif len(self._buffer) - self._from > self._element_bytes:
            raise self._wrong("item_too_large", f"larger than {self._element_bytes} bytes")
        found, self._found = self._found, []
        return found

    def rest(self) -> dict[str, Any]:
        """The object without the elements, once all of it was fed; the array is empty, or absent as it was."""
        self._keep(len(self._buffer))
        found = json.parse(b"".join(self._rest), dict)
        if found.get(self._name):  # no array, or a key that was written in another way
            raise Invalid([Problem(pointer(self._name), "list_type", "Input should be a valid array")])
        return found

    def _through_elements(self) -> bool:
        """Whether the array ends in the buffer; what is behind it is left."""
        buffer, at, depth = self._buffer, self._at, self._depth
        while token := _MARK.match(buffer, at):
            mark = token[1]
            if mark == b'"':
                self._at, self._depth = token.start(1), depth
                return False
            at = token.end()
            if mark == b",":
                if depth == 2:
                    self._element(at - 1, at)
            elif mark in b"{[":
                depth += 1
            elif (depth := depth - 1) == 1:
                self._at, self._depth = at, depth
                self._end(mark, at - 1)
                return True
        self._at, self._depth = len(buffer), depth
        return False

    def _around_them(self) -> bool:
        """Whether the array begins in the buffer; what is in it is left."""
        for token in _TOKEN.finditer(self._buffer, self._at):
            text = token[0]
            self._at = token.start()
            if text == b'"':
                return False
            if text in b"[{":
                self._open(text, token.end())
                if self._inside:
                    self._at = token.end()
                    return True
            elif text in b"]}":
                self._depth -= 1
            elif self._depth == 1:
                self._at_the_top(text)
        self._at = len(self._buffer)
        return False

    def _at_the_top(self, text: bytes) -> None:
        if text == b":":
            self._of = self._string
        elif text == b",":
            self._of = b""
        else:
            self._string = text

    def _open(self, text: bytes, end: int) -> None:
        if self._depth == 1 and text == b"[" and self._of == self._key:
            if self._seen:
                raise self._wrong("repeated_key", f"{self._name} stands there twice")
            self._keep(end)
            self._inside = self._seen = True
        self._depth += 1

    def _end(self, mark: bytes, start: int) -> None:
        if mark != b"]":
            raise self._wrong("invalid_json", "not valid JSON: a bracket that closes another")
        if self.count or self._buffer[self._from : start].strip():
            self._element(start, start)
        self._from = start
        self._inside = False

    def _element(self, start: int, end: int) -> None:
        if start - self._from > self._element_bytes:
            raise self._wrong("item_too_large", f"larger than {self._element_bytes} bytes")
        self._found.append(self._buffer[self._from : start])
        self._from = end
        self.count += 1

    def _keep(self, end: int) -> None:
        self._rest_size += end - self._from
        self._check_rest(0)
        self._rest.append(self._buffer[self._from : end])
        self._from = end

    def _check_rest(self, waiting: int) -> None:
        if self._rest_size + waiting > self._rest_bytes:
            detail = f"what stands around {self._name} is larger than {self._rest_bytes} bytes"
            raise Invalid([Problem("", "too_large", detail)])

    def _wrong(self, code: str, detail: str) -> Invalid:
        return Invalid([Problem(pointer(self._name, self.count), code, detail)])
