"""Types for the fields of input models."""

import re
from typing import Annotated
from uuid import UUID

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _canonical(value: object) -> object:
    if isinstance(value, str) and not _CANONICAL.fullmatch(value):
        raise PydanticCustomError("uuid_parsing", "Input should be a valid UUID")
    return value


# Only 8-4-4-4-12: pydantic alone also takes braces, `urn:uuid:` and bare hexadecimal digits.
CanonicalUUID = Annotated[UUID, BeforeValidator(_canonical)]
