"""Types for the fields of a processor's models."""

import re
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from gristmill.net import headers
from gristmill.net.addresses import MAX_URL_LENGTH, AddressRefused, check_url

_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _canonical(value: object) -> object:
    if isinstance(value, str) and not _CANONICAL.fullmatch(value):
        raise PydanticCustomError("uuid_parsing", "Input should be a valid UUID")
    return value


# Only 8-4-4-4-12: pydantic alone also takes braces, `urn:uuid:` and bare hexadecimal digits.
CanonicalUUID = Annotated[UUID, BeforeValidator(_canonical)]


def guarded(url: str, info: ValidationInfo) -> str:
    """Checked while a batch is made; on the worker, which has no such context, each connection is checked anyway."""
    if info.context is not None:
        try:
            check_url(url, allow_private=info.context["allow_private"])
        except AddressRefused as refused:
            raise PydanticCustomError("address_refused", str(refused)) from None
    return url


# A URL that the service will call: HTTPS, port 443, a public address, unless the settings open more.
GuardedUrl = Annotated[
    str,
    Field(max_length=MAX_URL_LENGTH, description="HTTPS, port 443, a public address"),
    AfterValidator(guarded),
]


def _sendable(given: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in given.items():
        if not headers.good_name(name) or name.lower() in headers.OURS:
            raise PydanticCustomError("header_name", "a header has a name that cannot be sent")
        if not headers.good_value(value.get_secret_value()):
            raise PydanticCustomError("header_value", "a header has a value that cannot be sent")
    if len({name.lower() for name in given}) < len(given):
        raise PydanticCustomError("duplicate_name", "two headers have the same name")
    return given


# Static headers of calls to such a URL. They may carry credentials: encrypted at rest, never shown again.
SecretHeaders = Annotated[
    dict[str, SecretStr],
    Field(max_length=32, description="Sent with every call, encrypted at rest, never shown again"),
    AfterValidator(_sendable),
]

SigningSecret = Annotated[
    SecretStr,
    Field(min_length=1, max_length=255, description="Signs every call, as webhooks are. Never shown again."),
]
