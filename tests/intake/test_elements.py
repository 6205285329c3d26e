"""Large arrays taken apart while they arrive: whatever the pieces, what comes out is what a parser finds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.domain.errors import Invalid
from gristmill.intake.elements import Elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text('ab"\\[]{},:\n é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('r"[', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def taken(body: bytes, sizes: list[int], **bounds: int) -> tuple[list[bytes], dict[str, Any]]:
    """The elements and the rest of a body that comes in pieces of these sizes."""
    elements = Elements("requests", **{"element_bytes": 10_000, "rest_bytes": 10_000, **bounds})
    found: list[bytes] = []
    start = 0
    for size in sizes:
        found += elements.feed(body[start : start + size])
        start += size
    found += elements.feed(body[start:])
    assert elements.count == len(found)
    return found, elements.rest()


@given(
    st.dictionaries(st.text('req"', max_size=4), VALUES, max_size=3),
    st.lists(VALUES, max_size=5),
    st.dictionaries(st.text('stu"', max_size=4), VALUES, max_size=3),
    st.lists(st.integers(0, 7), max_size=60),
    st.sampled_from([None, 1]),
)
def test_however_a_body_is_cut_its_elements_and_its_rest_come_out(
    before: dict[str, Any], elements: list[Any], after: dict[str, Any], sizes: list[int], indent: int | None
) -> None:
    body = json.dumps(before | {"requests": elements} | after, indent=indent, ensure_ascii=False).encode()
    found, rest = taken(body, sizes)
    assert [json.loads(one) for one in found] == elements
    assert rest == before | {"requests": []} | after


def test_an_array_of_another_name_or_depth_stays_with_the_rest() -> None:
    body = b'{"a": {"requests": [1]}, "b": "requests", "c": ["requests", [2]], "requests": [3 ,4]}'
    found, rest = taken(body, [1] * len(body))
    assert found == [b"3 ", b"4"]
    assert rest == {"a": {"requests": [1]}, "b": "requests", "c": ["requests", [2]], "requests": []}
    assert taken(b'{"a": 1}', []) == ([], {"a": 1})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"requests": [1}',
        b'{"requests": [1',
        b'{"requests": [1]',
        b'{"requests": [1]]}',
        b'{"requests": [1]} x',
        b'{"requests": [1], "requests": [2]}',
        b'{"requests": {"a": 1}}',
        b'{"re\\u0071uests": [1]}',
        b'{"requests": [1], "re\\u0071uests": [2]}',
        b'{"requests": [1] [2]}',
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_what_is_no_object_with_such_an_array_is_refused(body: bytes, step: int) -> None:
    with pytest.raises(Invalid):
        taken(body, [step] * len(body))


def test_a_missing_element_comes_out_empty_for_the_parser_to_refuse() -> None:
    assert taken(b'{"requests": [1,]}', [])[0] == [b"1", b""]
    assert taken(b'{"requests": [,1]}', [])[0] == [b"", b"1"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"requests": ["' + b"x" * 200, "item_too_large"),
        (b'{"requests": [' + b"7" * 200, "item_too_large"),
        (b'{"requests": ["' + b"x" * 200 + b'", 1]}', "item_too_large"),
        (b'{"a": "' + b"x" * 200, "too_large"),
        (b'{"a": "' + b"x" * 200 + b'", "requests": [1]}', "too_large"),
        (b'{"requests": [1], "a": "' + b"x" * 200 + b'"}', "too_large"),
        (b" " * 200, "too_large"),
    ],
)
@pytest.mark.parametrize("step", [10, 1000])
def test_neither_an_element_nor_what_stands_around_them_may_be_large(
    body: bytes, code: str, step: int
) -> None:
    with pytest.raises(Invalid) as refused:
        taken(body, [step] * 30, element_bytes=100, rest_bytes=100)
    assert refused.value.code == code
