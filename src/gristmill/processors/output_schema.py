"""A caller's JSON Schema that a model's answer has to validate against: bounded, and it never fetches anything.

Measured on jsonschema-rs 0.61: a schema of 1 kB whose references fan out takes 6 s for the errors of one value, because what is
referenced twice is validated twice, at every level. So the schema is counted as if each reference were written out.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote

import jsonschema_rs
import orjson
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32  # of the schema's own JSON
MAX_LEVELS = 100  # of schemas within schemas, references written out
MAX_SUBSCHEMAS = 3000  # each as often as it is referred to
_PATTERN_BYTES = 1024 * 1024  # of one compiled pattern; its time is linear, so look-around is refused
_POINTER_CHARACTERS = 200
_MESSAGE_CHARACTERS = 200

_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
_STRICT = frozenset(
    {
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "description",
        "enum",
        "items",
        "properties",
        "required",
        "title",
        "type",
    }
)
_REFUSED = ("$dynamicRef", "$recursiveRef")


class SchemaRefused(ValueError):
    """Why it cannot be used; quotes nothing of it but names of its keys."""


class Flaw(NamedTuple):
    """What is wrong with a value. `told` is for the model, `rule` is the place in the schema and holds nothing of the value."""

    told: str
    rule: str


class OutputSchema:
    """A usable schema. Made by `of`, once for each text."""

    def __init__(self, schema: dict[str, Any], text: str) -> None:
        self.schema = schema
        self.text = text
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self.is_object = schema.get("type") == "object"
        self.is_strict = self.is_object and all(map(_closed, _subschemas(schema)))
        self._validator = _validator(schema)

    def flaws(self, value: Any, most: int = 10) -> list[Flaw]:
        """Empty: it validates."""
        if self._validator.is_valid(value):
            return []
        return [_flaw(error) for error in islice(self._validator.iter_errors(value), most)]


def of(schema: dict[str, Any]) -> OutputSchema:
    """Raises SchemaRefused."""
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError:
        raise SchemaRefused("the schema is not JSON") from None
    if len(text) > MAX_BYTES:
        raise SchemaRefused(f"the schema has more than {MAX_BYTES} bytes")
    return _made(text)


@lru_cache(maxsize=256)
def _made(text: bytes) -> OutputSchema:
    schema = orjson.loads(text)
    _check_depth(schema, MAX_DEPTH)
    _Size(schema).check()
    return OutputSchema(schema, text.decode())


def _usable(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        of(schema)
    except SchemaRefused as refused:
        raise PydanticCustomError("json_schema", "{why}", {"why": str(refused)}) from None
    return schema


# A field of a processor's configuration: checked when a batch is made.
JsonSchema = Annotated[
    dict[str, Any],
    Field(description="JSON Schema (drafts 4 to 2020-12), up to 64 KiB, without recursion"),
    AfterValidator(_usable),
]


def _validator(schema: dict[str, Any]) -> Any:
    """Raises SchemaRefused."""
    try:
        return jsonschema_rs.validator_for(
            schema,
            retriever=_nothing,
            validate_formats=True,
            mask="the value",
            pattern_options=jsonschema_rs.RegexOptions(
                size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES
            ),
        )
    except jsonschema_rs.ValidationError as error:
        raise SchemaRefused(_why(error)) from None
    except (ValueError, jsonschema_rs.ReferencingError):
        raise SchemaRefused("the schema is not valid") from None


def _nothing(uri: str) -> Any:
    raise ValueError("references lead nowhere but into the schema itself")


def _why(error: jsonschema_rs.ValidationError) -> str:
    at = _pointer(error.instance_path)
    if at.endswith("/pattern"):
        return f"the pattern at {at} cannot be used: it is no regular expression, too large, or looks around or back"
    return f"the schema is not valid at {at}" if at else "the schema, or a reference in it, is not valid"


def _flaw(error: jsonschema_rs.ValidationError) -> Flaw:
    message = error.message
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[: _MESSAGE_CHARACTERS - 1] + "…"
    return Flaw(f"{_pointer(error.instance_path) or 'the whole'}: {message}", _pointer(error.schema_path))


def _pointer(path: list[str | int]) -> str:
    pointer = "".join("/" + str(one).replace("~", "~0").replace("/", "~1") for one in path)
    return pointer if len(pointer) <= _POINTER_CHARACTERS else pointer[: _POINTER_CHARACTERS - 1] + "…"


# --- bounds ---------------------------------------------------------------------------------------------------


def _check_depth(value: Any, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if left == 0:
        raise SchemaRefused(f"the schema has more than {MAX_DEPTH} levels")
    for inner in value.values() if isinstance(value, dict) else value:
        _check_depth(inner, left - 1)


def _children(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas right inside of one, by the keywords: what stands under `enum` or as a property's name is none."""
    for name in _ONE:
        if isinstance(schema.get(name), dict):
            yield schema[name]
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            yield from (one for one in schema[name] if isinstance(one, dict))
    for name in _MAPS:
        if isinstance(schema.get(name), dict):
            yield from (one for one in schema[name].values() if isinstance(one, dict))


def _subschemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for child in _children(schema):
        yield from _subschemas(child)


def _closed(schema: Mapping[str, Any]) -> bool:
    """As the strict mode of OpenAI's endpoint wants it: plain keywords, every property required, and no others."""
    if not schema.keys() <= _STRICT:
        return False
    names = schema.get("properties")
    if not isinstance(names, dict):
        return schema.get("type") != "object"
    required = schema.get("required")
    return (
        schema.get("additionalProperties") is False and isinstance(required, list) and {*required} == {*names}
    )


class _Size:
    """How many subschemas there are, and how deep, if each reference is written out. Each place is counted once."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._counted: dict[int, tuple[int, int] | None] = {}  # (parts, levels); None: being counted

    def check(self) -> None:
        """Raises SchemaRefused."""
        parts, _ = self._of(self._root)
        if parts > MAX_SUBSCHEMAS:
            raise SchemaRefused(f"the schema has more than {MAX_SUBSCHEMAS} parts, references written out")

    def _of(self, schema: dict[str, Any], level: int = 0) -> tuple[int, int]:
        if id(schema) not in self._counted:
            self._counted[id(schema)] = None
            inner = [self._of(one, level + 1) for one in (*_children(schema), *self._referred(schema))]
            parts, levels = sum(one for one, _ in inner), max((one for _, one in inner), default=0)
            self._counted[id(schema)] = (1 + parts, 1 + levels)
        counted = self._counted[id(schema)]
        if counted is None:
            raise SchemaRefused("the schema refers to itself, which is not supported")
        if level + counted[1] > MAX_LEVELS:
            raise SchemaRefused(f"the schema has more than {MAX_LEVELS} levels, references written out")
        return counted

    def _referred(self, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for name in _REFUSED:
            if name in schema:
                raise SchemaRefused(f"{name} is not supported")
        if schema is not self._root and isinstance(schema.get("$id", schema.get("id")), str):
            raise SchemaRefused("only the whole schema may have an $id")
        if "$ref" not in schema:
            return
        found = self._at(schema["$ref"])
        if isinstance(found, dict):
            yield found

    def _at(self, reference: object) -> Any:
        """What a JSON pointer in the schema leads to. Raises SchemaRefused."""
        if reference != "#" and not (isinstance(reference, str) and reference.startswith("#/")):
            raise SchemaRefused("a $ref must lead into the schema itself: #/…")
        here: Any = self._root
        for segment in unquote(str(reference)).split("/")[1:]:
            key = segment.replace("~1", "/").replace("~0", "~")
            if isinstance(here, dict) and key in here:
                here = here[key]
            elif isinstance(here, list) and key.isdecimal() and int(key) < len(here):
                here = here[int(key)]
            else:
                raise SchemaRefused("a $ref leads nowhere")
        return here
