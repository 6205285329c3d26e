"""Which schemas of callers can be used, and what is said of those that cannot."""

import time
from typing import Any

import pytest

from gristmill.processors import output_schema
from gristmill.processors.output_schema import MAX_BYTES, MAX_DEPTH, MAX_SUBSCHEMAS, SchemaRefused

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "born": {"type": "string", "format": "date"},
        "address": {"$ref": "#/$defs/address"},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"address": {"type": "object", "properties": {"town": {"type": "string"}}}},
}


def test_a_value_that_validates_has_no_flaws() -> None:
    assert (
        output_schema.of(PERSON).flaws({"name": "Ada", "born": "1815-12-10", "address": {"town": "x"}}) == []
    )


def test_flaws_name_the_place_and_the_rule_and_hold_nothing_of_the_value() -> None:
    value = {"name": "S", "born": "SECRET", "address": {"town": 404}}
    flaws = output_schema.of(PERSON).flaws(value)
    assert {flaw.rule for flaw in flaws} == {
        "/properties/name/minLength",
        "/properties/born/format",
        "/$defs/address/properties/town/type",
    }
    assert all("SECRET" not in flaw.told + flaw.rule and "404" not in flaw.told for flaw in flaws)
    assert any(flaw.told.startswith("/address/town: ") for flaw in flaws)


def test_flaws_are_bounded_in_number_and_length() -> None:
    schema = output_schema.of({"type": "array", "items": {"additionalProperties": False}})
    flaws = schema.flaws([{"x" * 5000: 1}] * 1000, 7)
    assert len(flaws) == 7
    assert all(len(flaw.told) < 500 for flaw in flaws)


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def _chain(length: int, times: int) -> dict[str, Any]:
    """Each definition refers `times` to the one before."""
    definitions: dict[str, Any] = {"n0": {"type": "string"}}
    for number in range(1, length):
        before = {"$ref": f"#/$defs/n{number - 1}"}
        definitions[f"n{number}"] = {"anyOf": [before] * times}
    return {"$defs": definitions, "$ref": f"#/$defs/n{length - 1}"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "not valid at /type"),
        ({"properties": {"a": {"minLength": "3"}}}, "not valid at /properties/a/minLength"),
        ({"properties": {"a": {"pattern": "(?=x)y"}}}, "pattern at /properties/a/pattern"),
        ({"pattern": "a{1000}{1000}{1000}"}, "pattern at /pattern"),
        ({"$schema": "http://127.0.0.1:9/meta"}, "not valid"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "must lead into the schema itself"),
        ({"$ref": "file:///etc/passwd"}, "must lead into the schema itself"),
        ({"properties": {"a": {"items": [{"$ref": "other.json"}]}}}, "must lead into the schema itself"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$dynamicRef": "#x"}, "$dynamicRef is not supported"),
        ({"properties": {"a": {"$id": "http://127.0.0.1:9/"}}}, "only the whole schema"),
        ({"$ref": "#"}, "refers to itself"),
        ({"properties": {"child": {"$ref": "#"}}}, "refers to itself"),
        (_nested(MAX_DEPTH + 1), "levels"),
        (_chain(11, 2), f"more than {MAX_SUBSCHEMAS} parts"),
        (_chain(120, 1), "levels, references written out"),
        ({"title": "x" * MAX_BYTES}, f"more than {MAX_BYTES} bytes"),
        ({"const": float("nan"), "title": "\ud800"}, "not JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaRefused) as refused:
        output_schema.of(schema)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"$ref": {"type": "string"}, "$dynamicRef": {}, "$id": {}}},
        {"enum": [{"$ref": "http://127.0.0.1:9/x"}]},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$id": "https://example.com/a",
            "$ref": "#/a",
            "a": {},
        },
        {"$defs": {"a b": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a%20b"}}},
    ],
)
def test_names_and_values_that_look_like_references_are_none(schema: dict[str, Any]) -> None:
    assert output_schema.of(schema).schema == schema


def test_the_largest_schema_is_checked_in_bounded_time() -> None:
    schema = output_schema.of(_chain(8, 2))  # nearly as many parts as are allowed
    started = time.process_time()
    assert schema.flaws(1)
    assert time.process_time() - started < 2


def test_a_pattern_takes_linear_time() -> None:
    schema = output_schema.of({"type": "string", "pattern": "^(a+)+$"})
    started = time.process_time()
    assert schema.flaws("a" * 100_000 + "b")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("change", "strict"),
    [
        ({}, True),
        ({"required": []}, False),
        ({"additionalProperties": True}, False),
        ({"minProperties": 1}, False),
        ({"type": "array"}, False),
    ],
)
def test_the_strict_mode_is_for_schemas_that_it_takes(change: dict[str, Any], strict: bool) -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert output_schema.of(closed | change).is_strict is strict
