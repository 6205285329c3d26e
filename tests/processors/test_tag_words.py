"""Tags made alike: the same words always give the same tags."""

import pytest

from gristmill.processors.tag_words import MAX_CHARACTERS, normalised


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        (["Water Mill", "  water   mill ", "WATER MILL"], ["water mill"]),
        (
            ["#flour", "'grain'", "- bread.", "«Mühle»", "(river)"],
            ["flour", "grain", "bread", "mühle", "river"],
        ),
        (["water-mill", "water mill", "water_mill"], ["water-mill"]),
        (["C++", "C#", "Gr\u00f6\u00dfe", "Gro\u0308\u00dfe"], ["c++", "c#", "größe"]),
        (["flour, grain; bread\nriver", "水車、製粉"], ["flour", "grain", "bread", "river", "水車", "製粉"]),
        (["", "   ", "!!", "x" * (MAX_CHARACTERS + 1)], []),
        (["Straße", "STRASSE"], ["straße"]),
    ],
)
def test_case_blanks_marks_and_doubles_do_not_make_tags_differ(said: list[str], tags: list[str]) -> None:
    assert normalised(said, [], 15) == tags
    assert normalised(tags, [], 15) == tags  # nothing is left to do


def test_excluded_words_keep_out_what_has_them_as_words() -> None:
    said = ["tax form", "Platform", "FORM", "form-filling", "tax office", "income tax office"]
    assert normalised(said, ["Form", "tax office"], 15) == ["platform"]
    assert normalised(["tax", "office"], ["tax office", "!!"], 15) == ["tax", "office"]


def test_no_more_than_asked_for_are_kept_and_the_first_are() -> None:
    assert normalised([f"tag {n}" for n in range(20)], ["tag 1"], 3) == ["tag 0", "tag 2", "tag 3"]
