"""The one gate for JSON: what passes here is strict JSON that Postgres can hold.

Refused by name: bytes that are not UTF-8, a byte order mark, NaN and Infinity, trailing text, lone surrogates, NUL,
integers beyond 64 bits, floats beyond double, more than 64 levels, more values than fit into memory: an empty object of
three bytes takes 72 there. Duplicate keys: the last one wins.
A body of 250 kB with 1,000 items costs about 1.3 ms: byte searches decide whether the slower checks are needed at all.
"""

import json
from typing import Any, TypeVar

import orjson

from gristmill.domain import marks
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import pieces, runs

MAX_DEPTH = 64
# Both are counted by their marks, those in texts included: 64 MiB of prose, code or JSON as text stay far below.
MAX_CONTAINERS = 4_000_000  # { and [
MAX_VALUES = 12_000_000  # commas; 1000 requests of 8000 token ids are 8 million
# Of a request, or of what is beside the requests.
MAX_PIECE_MARKS = 700_000  # a request has 1 MiB: with more it is larger
MAX_PIECE_BYTES = 16 * 1024 * 1024  # 1 MiB with every character written as an escape, and blanks; takes 15 ms
# Up to here a text is one piece, and parsed at once: [[[[[[[[]]]]]]]], as often as it fits, in 14 ms.
_AT_ONCE_BYTES = 512 * 1024
_SHORT_BYTES = 64 * 1024  # longer, and to count its brackets costs more than to look for its levels
_RUN_MARKS = 50_000  # {, [ and colons; a larger piece with more is parsed in runs
_WINDOW_BYTES = 1024 * 1024
_INT64 = range(-(2**63), 2**63)
_LONG_NUMBER = b"0" * 19  # 2^63 has 19 digits: anything shorter fits
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
# Of any 19 bytes in a row at least three are sixths: to look at these is enough for nearly every text.
_SIXTHS, _LONG_NUMBER_SIXTHS = slice(5, None, 6), b"000"
_BACKSLASH = ord("\\")  # as a number: `in` takes bytes for one first, and is ten times as slow
_NUL = b"\\u0000"
_KINDS = {dict: "an object", list: "an array"}

T = TypeVar("T", dict[str, Any], list[Any])


def parse(body: bytes, kind: type[T]) -> T:
    """The value of a JSON text whose top level is of that kind; raises Invalid with one problem.

    For a large one, in a thread: it is parsed in pieces, and takes some milliseconds at a time."""
    value = _value(body) if len(body) <= _AT_ONCE_BYTES else _large(body)
    if type(value) is not kind:
        raise _refusal("invalid_type", f"the JSON text must be {_KINDS[kind]}")
    return value


def _large(body: bytes) -> Any:
    _check_values(body)
    cut = pieces.cut(body)
    value = _value(cut.rest)
    if cut.pieces and type(value) is dict:
        for inner in value.values():
            if type(inner) is list:
                _put_back(inner, body, cut.pieces)
    return value


def _put_back(values: list[Any], body: bytes, cut_out: list[tuple[int, int]]) -> None:
    for index, value in enumerate(values):
        if type(value) is list:
            begin, end = cut_out[value[0]]
            if end - begin > MAX_PIECE_BYTES:  # before it is copied
                raise _too_many_in_a_piece()
            values[index] = _value(body[begin:end], levels=MAX_DEPTH - 2)


def _value(text: bytes, levels: int = MAX_DEPTH) -> Any:
    value = _loads(text) if len(text) <= _AT_ONCE_BYTES else _long(text, levels)
    if (type(value) is dict or type(value) is list) and (
        len(text) > _SHORT_BYTES or text.count(b"{") + text.count(b"[") > levels
    ):
        check_depth(value, levels)  # fewer brackets make no more levels: most lines of a file end here
    if _BACKSLASH in text and _NUL in text and _holds_nul(value):
        raise _refusal("nul_character", "the character NUL (\\u0000) cannot be stored")
    sixths = text[_SIXTHS].translate(_DIGITS)
    if sixths.find(_LONG_NUMBER_SIXTHS) >= 0 and _LONG_NUMBER in text.translate(_DIGITS):
        _check_integers(text)
    return value


def _long(text: bytes, levels: int) -> Any:
    _check_piece(text)
    if sum(map(text.count, (b"{", b"[", b":"))) <= _RUN_MARKS:
        return _loads(text)
    try:
        return runs.parse(text, _loads, levels)
    except runs.Broken:
        raise _refusal("invalid_json", "not valid JSON: brackets or commas are not in their places") from None
    except runs.TooDeep:
        raise _too_deep() from None


def _check_piece(text: bytes) -> None:
    if len(text) > MAX_PIECE_BYTES or marks.count(text) > MAX_PIECE_MARKS:
        raise _too_many_in_a_piece()


def _too_many_in_a_piece() -> Invalid:
    return _refusal(
        "too_many_values",
        f"a request, or what is beside the requests, has more than {MAX_PIECE_BYTES} bytes, or more than "
        f"{MAX_PIECE_MARKS} times {{, [ or a comma",
    )


def _check_values(body: bytes) -> None:
    """Before any of them is made."""
    if _count(body, b"{") + _count(body, b"[") > MAX_CONTAINERS or _count(body, b",") > MAX_VALUES:
        raise _refusal(
            "too_many_values", f"more than {MAX_CONTAINERS} times {{ or [, or more than {MAX_VALUES} commas"
        )


def _count(body: bytes, mark: bytes) -> int:
    """Part by part, as others wait meanwhile."""
    return sum(body.count(mark, at, at + _WINDOW_BYTES) for at in range(0, len(body), _WINDOW_BYTES))


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _refusal(*_reason(body, error)) from None


def _reason(body: bytes, error: orjson.JSONDecodeError) -> tuple[str, str]:
    # The parser's message names a position and never quotes the text.
    said = str(error)
    if not body.strip():
        return "empty_body", "the body is empty; JSON was expected"
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "byte_order_mark", "the body must be UTF-8 without a byte order mark"
    if "surrogate" in said and "UTF-8" not in said:
        return "lone_surrogate", f"a surrogate without its other half: {said}"
    if "UTF-8" in said:
        return "invalid_utf8", "the body is not valid UTF-8"
    if "infinity" in said:
        return "number_out_of_range", f"a number is too large: {said}"
    if "depth" in said:
        return "too_deep", f"more than {MAX_DEPTH} levels of nesting"
    return "invalid_json", f"not valid JSON: {said}"


def check_depth(value: Any, levels: int = MAX_DEPTH) -> None:
    """Level by level over containers only, so it takes no stack."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> Invalid:
    return _refusal("too_deep", f"more than {MAX_DEPTH} levels of nesting")


def _holds_nul(value: Any) -> bool:
    """Whether a string or a key has a NUL: the escape may also have been an escaped backslash."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            waiting.extend(one)
            waiting.extend(one.values())
        elif type(one) is list:
            waiting.extend(one)
        elif type(one) is str and "\0" in one:
            return True
    return False


def _check_integers(body: bytes) -> None:
    """Slow, and only for bodies with a run of 19 digits somewhere: the fast parser turns 2^64 into a float."""

    def check(digits: str) -> None:
        if len(digits) > 20 or int(digits) not in _INT64:
            raise _refusal("number_out_of_range", "an integer does not fit into 64 bits")

    json.loads(body, parse_int=check)


def _refusal(code: str, detail: str) -> Invalid:
    return Invalid([Problem("", code, detail)])
