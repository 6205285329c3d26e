"""One value of several that were extracted from parts of a document, by rules that the schema allows. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

_ONLY_OF_THE_WHOLE = ("required", "minProperties", "dependentRequired", "dependencies", "dependentSchemas")


def for_a_part(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without what a part of a document need not tell: whatever is required of the whole."""
    return {name: rule for name, rule in schema.items() if name not in _ONLY_OF_THE_WHOLE}


def merged(schema: Mapping[str, Any], values: Sequence[Any]) -> Any:
    """Objects: property by property. Arrays: one behind the other, without repetitions, cut at maxItems.

    All else, and where kinds differ: the first that says anything. None, "" and {} say nothing.
    """
    return _merged(schema, schema, [value for value in values if value not in (None, "", {}, [])])


def _merged(root: Mapping[str, Any], schema: Mapping[str, Any], values: Sequence[Any]) -> Any:
    if not values:
        return None
    if all(isinstance(value, dict) for value in values):
        return _objects(root, _resolved(root, schema), values)
    if all(isinstance(value, list) for value in values):
        most = _resolved(root, schema).get("maxItems")
        found = _distinct(one for value in values for one in value)
        return found[: int(most)] if isinstance(most, int | float) else found
    return values[0]


def _objects(
    root: Mapping[str, Any], schema: Mapping[str, Any], values: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    names = dict.fromkeys(name for value in values for name in value)
    found = {}
    for name in names:
        given = [value[name] for value in values if name in value]
        telling = [one for one in given if one not in (None, "", {}, [])]
        found[name] = _merged(root, _property(schema, name), telling) if telling else given[0]
    return found


def _property(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, dict) else None
    return found if isinstance(found, dict) else {}


def _resolved(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Through references of the usual form; the schema is known not to refer to itself."""
    here: Any = schema
    while isinstance(here, dict) and isinstance(here.get("$ref"), str):
        target: Any = root
        for key in here["$ref"].split("/")[1:]:
            target = target.get(key) if isinstance(target, dict) else None
        here = target
    return here if isinstance(here, dict) else {}


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Texts that differ in case and white space only are the same; the first stays."""
    seen: dict[Any, Any] = {}
    for value in values:
        seen.setdefault(_key(value), value)
    return list(seen.values())


def _key(value: Any) -> bytes:
    if isinstance(value, str):
        value = " ".join(value.casefold().split())
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
