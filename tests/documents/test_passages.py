"""Where a passage stands, whatever the white space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.documents.passages import Passages

TEXT = "  The quick\n\nbrown fox. It jumps\tover the lazy dog.\nThe quick cat. 日本語の\n文章です。 "


@pytest.mark.parametrize(
    ("passage", "found"),
    [
        ("quick brown fox.", "quick\n\nbrown fox."),
        ("  It\njumps over ", "It jumps\tover"),
        ("Itjumpsover", "It jumps\tover"),
        ("日本語の文章です。", "日本語の\n文章です。"),
        ("T", "T"),
        ("The quick c", "The quick c"),
        ("ick\nbro", "ick\n\nbro"),
    ],
)
def test_a_passage_is_found_with_its_exact_place(passage: str, found: str) -> None:
    place = Passages(TEXT).find(passage)
    assert place is not None
    assert TEXT[slice(*place)] == found
    assert place[0] == TEXT.index(found)


@pytest.mark.parametrize("passage", ["", " \n", "the quick", "fox It", "dog.. The", "brown wolf", TEXT + "x"])
def test_what_is_not_there_is_not_found(passage: str) -> None:
    assert Passages(TEXT).find(passage) is None


def test_the_search_keeps_within_its_span() -> None:
    passages, second = Passages(TEXT), TEXT.rindex("The quick")
    assert passages.find("The quick", second) == (second, second + 9)
    assert passages.find("The quick", second + 1) is None
    assert passages.find("The quick", 0, 10) is None
    assert passages.find("The quick", 0, 11) == (2, 11)
    assert passages.find("The quick", 0, 0) is None
    assert Passages("").find("x") is None


@given(st.text("ab \n", max_size=40), st.integers(0, 40), st.integers(0, 40), st.text(" \n", max_size=2))
def test_every_piece_of_a_text_is_found_whatever_is_put_between(
    text: str, first: int, last: int, space: str
) -> None:
    piece = text[first:last]
    place = Passages(text).find(space.join(["", *piece, ""]))
    if not piece.strip():
        assert place is None
    else:
        assert place is not None
        assert "".join(text[slice(*place)].split()) == "".join(piece.split())
        assert place[0] <= first + len(piece) - len(piece.lstrip())
        assert text[place[0]].strip()
        assert text[place[1] - 1].strip()
