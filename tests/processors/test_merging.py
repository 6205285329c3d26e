"""What of several parts becomes one value."""

from typing import Any

import pytest

from gristmill.processors.merging import for_a_part, merged

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": ["string", "null"]},
        "pages": {"type": "integer"},
        "names": {"type": "array", "maxItems": 3},
        "rows": {"$ref": "#/$defs/rows"},
        "seller": {"type": "object", "properties": {"tags": {"type": "array", "maxItems": 1}}},
    },
    "required": ["title", "names"],
    "minProperties": 2,
    "$defs": {"rows": {"$ref": "#/$defs/more"}, "more": {"type": "array", "maxItems": 2}},
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"title": "a"}, {"title": "b"}], {"title": "a"}),
        ([{"title": ""}, {"title": None}, {"title": "b"}], {"title": "b"}),
        ([{"title": None}, {"title": ""}], {"title": None}),
        ([{"pages": 0}, {"pages": 7}], {"pages": 0}),
        ([{"names": ["Ada", "Bob"]}, {"names": ["ada ", "Cy"]}], {"names": ["Ada", "Bob", "Cy"]}),
        ([{"names": ["a", "b"]}, {"names": ["c", "d"]}], {"names": ["a", "b", "c"]}),
        ([{"names": []}, {}], {"names": []}),
        ([{"rows": [{"a": 1, "b": 2}]}, {"rows": [{"b": 2, "a": 1}, 3, 4]}], {"rows": [{"a": 1, "b": 2}, 3]}),
        (
            [{"seller": {"name": "x"}}, {"seller": {"tags": [1, 2], "name": "y"}}],
            {"seller": {"name": "x", "tags": [1]}},
        ),
        ([{"title": "a"}, {"title": ["b"]}], {"title": "a"}),
        ([{}, {"unknown": 1}], {"unknown": 1}),
        ([{}, {}], None),
        ([[1, 2], [2, 3]], [1, 2, 3]),
        (["x", "y"], "x"),
    ],
)
def test_values_of_parts_become_one(values: list[Any], expected: Any) -> None:
    assert merged(SCHEMA, values) == expected


def test_a_part_need_not_tell_what_the_whole_must() -> None:
    assert for_a_part(SCHEMA).keys() == SCHEMA.keys() - {"required", "minProperties"}
