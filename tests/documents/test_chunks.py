"""Chunks end on borders, say where they stand, and hold the whole document between them."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.documents.chunks import MAX_CHARACTERS, NEW_AFTER, Strategy, chunks
from gristmill.documents.document import Document, Page

_SENTENCES = [f"This is sentence number {number}, and it says that the mill turns." for number in range(400)]


def document(*pages: str) -> Document:
    return Document("text/markdown", tuple(Page(number, text, text) for number, text in enumerate(pages, 1)))


def prose(first: int, last: int) -> str:
    return " ".join(_SENTENCES[first:last])


BOOK = document(
    f"# One\n\n{prose(0, 40)}\n\n## Deeper\n\n{prose(40, 60)}",
    f"{prose(60, 100)}\n\n```\n# no heading\n```\n\n# Two #\n\n## At once\n\n{prose(100, 110)}",
)


@pytest.mark.parametrize("strategy", ["basic", "by_title"])
def test_chunks_end_with_a_sentence_and_are_never_too_long(strategy: Strategy) -> None:
    found = chunks(BOOK, strategy=strategy)
    assert len(found) > 5
    assert all(len(chunk.text) <= MAX_CHARACTERS for chunk in found)
    assert all(chunk.text.endswith((".", "```")) for chunk in found)
    assert [chunk.index for chunk in found] == list(range(len(found)))


def test_basic_chunks_are_filled_at_least_to_the_soft_limit_unless_a_heading_comes() -> None:
    found = chunks(document(prose(0, 200)))
    assert all(NEW_AFTER <= len(chunk.text) <= MAX_CHARACTERS for chunk in found[:-1])


def test_by_title_begins_a_new_chunk_at_each_heading() -> None:
    found = chunks(BOOK, strategy="by_title")
    starts = [chunk.text.split("\n")[0] for chunk in found if chunk.text.startswith("#")]
    assert starts == ["# One", "## Deeper", "# Two #"]
    assert not any(re.search(r"(?<!^)^#+ (One|Deeper|Two)", chunk.text, re.MULTILINE) for chunk in found)


def test_none_is_one_chunk() -> None:
    (chunk,) = chunks(BOOK, strategy="none")
    assert (chunk.text, chunk.start, chunk.page, chunk.heading) == (BOOK.markdown, 0, 1, "One")


def test_a_chunk_knows_its_place_its_page_and_the_nearest_heading() -> None:
    for chunk in chunks(BOOK, 500, 300):
        assert BOOK.markdown[chunk.start : chunk.start + len(chunk.text)] == chunk.text
        for number in re.findall(r"number (\d+)", chunk.text)[:1]:  # one chunk is nothing but code
            assert chunk.page == (1 if int(number) < 60 else 2)
    headings = [key for key, _ in itertools.groupby(chunk.heading for chunk in chunks(BOOK, 500, 300))]
    assert headings == ["One", "Deeper", "Two", "At once"]


def test_a_heading_is_never_left_alone() -> None:
    for strategy in ("basic", "by_title"):
        for chunk in chunks(BOOK, strategy=strategy):  # type: ignore[arg-type]
            assert not all(line.startswith("#") or not line for line in chunk.text.split("\n"))


def test_an_empty_document_has_no_chunks() -> None:
    assert chunks(document("", "  \n")) == []
    assert chunks(document(" "), strategy="none") == []


@pytest.mark.parametrize("limits", [(0, 0), (10, 11), (10, 0)])
def test_limits_that_make_no_sense_are_refused(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="new_after"):
        chunks(BOOK, *limits)


_TEXT = st.text(st.sampled_from("ab. \n#|-`*水é\U0001f600"), max_size=300)


@given(
    st.lists(_TEXT, min_size=1, max_size=4),
    st.integers(1, 60),
    st.integers(0, 60),
    st.sampled_from(["basic", "by_title"]),
)
def test_no_character_but_white_space_is_lost_or_said_twice(
    pages: list[str], new_after: int, more: int, strategy: Strategy
) -> None:
    whole = document(*pages)
    found = chunks(whole, new_after + more, new_after, strategy)
    assert "".join("".join(chunk.text for chunk in found).split()) == "".join(whole.markdown.split())
    assert all(0 < len(chunk.text) <= new_after + more for chunk in found)
    for chunk in found:
        assert whole.markdown[chunk.start : chunk.start + len(chunk.text)] == chunk.text


def test_a_long_text_without_any_border_is_cut_all_the_same() -> None:
    found = chunks(document("x" * 200_000))
    assert sum(len(chunk.text) for chunk in found) == 200_000
    assert all(len(chunk.text) <= MAX_CHARACTERS for chunk in found)
