"""Secrets of a processor's configuration: fields of type `SecretStr`, anywhere in its model.

A batch keeps its configuration in two parts. One may be shown, with asterisks where a secret was; the other is the
secrets, each with the way to its place, to be encrypted. A processor gets them put together again.
"""

from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import BaseModel, SecretStr

Path = tuple[str | int, ...]


def binding(batch_id: object) -> str:
    """What the encrypted secrets of a batch's configuration are bound to."""
    return f"config:{batch_id}"


def upstream_binding(batch_id: object) -> str:
    """What the key that a batch brings for the model's endpoint is bound to."""
    return f"upstream:{batch_id}"


def taken_out(config: BaseModel) -> tuple[str, bytes | None]:
    """The configuration as JSON without its secrets, and the secrets in clear; None: it has none."""
    dumped = config.model_dump(by_alias=True, exclude_unset=True, round_trip=True)
    found = list(_secrets((), dumped))
    text = config.model_dump_json(by_alias=True, exclude_unset=True, round_trip=True)
    return text, orjson.dumps(found) if found else None


def put_back(config: str, secrets: bytes) -> str:
    """The configuration as its processor's model reads it: the JSON of both parts of `taken_out`."""
    whole = orjson.loads(config)
    for path, secret in orjson.loads(secrets):
        *way, last = path
        place = whole
        for step in way:
            place = place[step]
        place[last] = secret
    return orjson.dumps(whole).decode()


def _secrets(path: Path, value: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(value, SecretStr):
        yield path, value.get_secret_value()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets((*path, str(key)), inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _secrets((*path, index), inner)
