"""Counting lines and records of a text as it passes by, so that nobody has to read it twice or hold it."""

import re


class Lines:
    """Lines that hold more than white space: what a JSONL file has items."""

    def __init__(self) -> None:
        self._ended = 0
        self._open = False  # the line that has begun holds something

    def feed(self, data: bytes) -> None:
        first, *more = data.split(b"\n")
        self._open = self._open or bool(first.strip())
        if not more:
            return
        *whole, last = more
        self._ended += self._open + sum(1 for line in whole if line.strip())
        self._open = bool(last.strip())

    @property
    def count(self) -> int:
        return self._ended + self._open


_DELIMITERS = rb",;\t|"
# What matters outside of quotes: the end of a record, and a quote where a field begins (any other is a character).
_OUTSIDE = re.compile(rb'\r\n?|\n|(?<=[%s\r\n])"' % _DELIMITERS)


class Records:
    """Records of a CSV file, its header among them, as Python's csv reader counts them: line ends within quotes end
    none, empty lines are none. For the delimiters comma, semicolon, tab and bar. Up to 25 ms per MiB."""

    def __init__(self) -> None:
        self._ended = 0
        self._open = False  # the record that has begun holds something
        self._quoted = False
        self._after_quote = (
            False  # the last byte was a quote within quotes: its end, or half of an escaped one
        )
        self._last = b"\n"

    def feed(self, data: bytes) -> None:
        if not data:
            return
        text = self._last + data
        at = begun = 1
        if self._after_quote:
            self._after_quote = False
            self._quoted = text[1:2] == b'"'
            at += self._quoted
        while at < len(text):
            if self._quoted:
                at = self._leave_quotes(text, at)
                continue
            found = _OUTSIDE.search(text, at)
            if found is None:
                break
            at = found.end()
            if found[0] == b'"':
                self._quoted = True
            else:
                self._ended += self._open or found.start() > begun
                self._open, begun = False, at
        self._open = self._open or len(text) > begun
        self._last = text[-1:]

    def _leave_quotes(self, text: bytes, at: int) -> int:
        """Where to go on: behind the quote that ends them, or behind an escaped one, still within."""
        quote = text.find(b'"', at)
        if quote < 0:
            return len(text)
        if quote == len(text) - 1:
            self._after_quote = True
        elif text[quote + 1 : quote + 2] == b'"':
            return quote + 2
        self._quoted = False
        return quote + 1

    @property
    def count(self) -> int:
        return self._ended + self._open
