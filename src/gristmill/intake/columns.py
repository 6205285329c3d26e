"""Which column of a CSV file goes where: into a field of the processor's input, its metadata, the custom id, nowhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from pydantic import BaseModel, RootModel

from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import json
from gristmill.intake.problems import pointer

CUSTOM_ID = "custom_id"
METADATA = "metadata"
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Target:
    """`name` is a field, or a key of the metadata. `kinds`: the JSON types the field takes; empty: any."""

    name: str
    kinds: frozenset[str] = frozenset()
    metadata: bool = False


@dataclass(frozen=True, slots=True)
class Columns:
    """Runs parallel to the header. None: left out."""

    targets: tuple[Target | None, ...]

    @classmethod
    def of(
        cls, header: Sequence[str], mapping: Mapping[str, str | None], model: type[BaseModel]
    ) -> tuple[Self | None, list[Problem]]:
        """A column that is not mapped goes to the field of its name, else into the metadata of an input that has some.

        Every column needs a place: one that has none is named, unless the mapping says null.
        """
        fields = _fields(model)
        problems: list[Problem] = []
        problems += [
            _wrong(column, "unknown_column", "the file has no such column")
            for column in mapping
            if column not in header
        ]
        targets = [_target(column, mapping, fields, problems) for column in header]
        taken: dict[tuple[str, bool], int] = {}
        for place, target in enumerate(targets):
            if target and taken.setdefault((target.name, target.metadata), place) != place:
                problems.append(
                    _wrong(header[place], "duplicate_field", "another column goes to the same field")
                )
        return (None if problems else cls(tuple(targets))), problems

    def request(self, number: int, cells: Sequence[str]) -> dict[str, Any]:
        """As it would stand in `requests`. Empty cells are left out. Record n without a custom id is `row-n`."""
        given: dict[str, Any] = {}
        metadata: dict[str, str] = {}
        custom_id = f"row-{number}"
        for target, cell in zip(self.targets, cells, strict=False):
            if target is None or not cell:
                continue
            if target.metadata:
                metadata[target.name] = cell
            elif target.name == CUSTOM_ID:
                custom_id = cell
            else:
                given[target.name] = value(cell, target.kinds)
        if metadata:
            given[METADATA] = metadata
        return {CUSTOM_ID: custom_id, "input": given}


def value(cell: str, kinds: frozenset[str]) -> Any:
    """The cell as the field's type wants it; as text where it cannot be that, for the field to refuse."""
    if not kinds or "string" in kinds:
        return cell
    text = cell.strip()
    if "integer" in kinds and _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    if "number" in kinds and _NUMBER.fullmatch(text) and isfinite(float(text)):
        return float(text)
    if "boolean" in kinds and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    try:
        if "array" in kinds and text.startswith("["):
            return json.parse(text.encode(), list)
        if "object" in kinds and text.startswith("{"):
            return json.parse(text.encode(), dict)
    except Invalid:
        return cell
    return cell


def _target(
    column: str,
    mapping: Mapping[str, str | None],
    fields: Mapping[str, frozenset[str]] | None,
    problems: list[Problem],
) -> Target | None:
    name = mapping.get(column, column)
    if name is None:
        return None
    if name == CUSTOM_ID or fields is None:
        return Target(name)
    if name in fields and (column in mapping or name != METADATA):
        return Target(name, fields[name])
    if column in mapping:
        problems.append(_wrong(column, "unknown_field", "the processor's input has no such field"))
    elif METADATA in fields:
        return Target(column, metadata=True)
    else:
        detail = "the processor's input has no field of this name: map the column, or map it to null"
        problems.append(_wrong(column, "unmapped_column", detail))
    return None


def _fields(model: type[BaseModel]) -> dict[str, frozenset[str]] | None:
    """The input's fields with the JSON types they take; None: it takes any."""
    if issubclass(model, RootModel):
        return None
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    return {name: _kinds(one, definitions) for name, one in schema["properties"].items()}


def _kinds(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> frozenset[str]:
    if reference := schema.get("$ref"):
        return _kinds(definitions[reference.rsplit("/", 1)[1]], definitions)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return frozenset().union(*(_kinds(one, definitions) for one in schema[union]))
    kind = schema.get("type")
    if kind is None:
        return frozenset({"string"}) if "enum" in schema or "const" in schema else frozenset()
    return frozenset([kind] if isinstance(kind, str) else kind)


def _wrong(column: str, code: str, detail: str) -> Problem:
    return Problem(pointer("source", "column_mapping", column), code, detail)
