"""The query string, read strictly: known names only, one value each, nothing coerced."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.requests import Request

from gristmill.domain.errors import Invalid, Problem

_INTEGER = re.compile(r"-?[0-9]{1,100}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_TEXT = 256
_MAX_FIELDS = 50

Choice = TypeVar("Choice", bound=StrEnum)


class Query:
    """Collects every problem; `check()` raises them together. Getters answer the default where one was found.

    `lenient`: what is not known is passed over, as the dialects do: official clients send extras.
    """

    def __init__(
        self, request: Request, known: Collection[str], prefix: str | None = None, *, lenient: bool = False
    ) -> None:
        self.values: dict[str, str] = {}
        self._problems: list[Problem] = []
        for name, value in self._pairs(request):
            if name not in known and not (prefix and name.startswith(prefix) and len(name) > len(prefix)):
                if not lenient:
                    self.wrong(name, "unknown_parameter", "no such query parameter here")
            elif name in self.values:
                self.wrong(name, "repeated_parameter", "give this parameter once")
            elif "\0" in value or "\0" in name:
                self.wrong(name, "nul_character", "the character NUL cannot be stored")
            else:
                self.values[name] = value

    def _pairs(self, request: Request) -> list[tuple[str, str]]:
        text = request.scope["query_string"].decode("latin-1")
        try:
            return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
        except UnicodeDecodeError:
            self.wrong("", "invalid_utf8", "the query string is not valid UTF-8")
        except ValueError:
            self.wrong("", "too_many_parameters", f"more than {_MAX_FIELDS} query parameters")
        return []

    def check(self) -> None:
        if self._problems:
            raise Invalid(self._problems)

    def wrong(self, name: str, code: str, detail: str) -> None:
        self._problems.append(Problem(name[:_MAX_TEXT], code, f"{name[:64]}: {detail}" if name else detail))

    def text(self, name: str, max_characters: int = _MAX_TEXT) -> str | None:
        value = self.values.get(name)
        if value is not None and len(value) > max_characters:
            self.wrong(name, "string_too_long", f"at most {max_characters} characters")
        return value

    def integer(self, name: str, low: int, high: int | None, default: int) -> int:
        value = self.values.get(name)
        if value is None:
            return default
        number = int(value) if _INTEGER.fullmatch(value) else None
        if number is None:
            self.wrong(name, "invalid_integer", "must be an integer")
        elif number < low or (high is not None and number > high):
            self.wrong(name, "out_of_range", f"must be {low} to {high}" if high else f"must be {low} or more")
        else:
            return number
        return default

    def choice(self, name: str, kind: type[Choice]) -> Choice | None:
        value = self.values.get(name)
        if value is None:
            return None
        if value not in [one.value for one in kind]:
            self.wrong(name, "unknown_value", "must be one of: " + ", ".join(one.value for one in kind))
            return None
        return kind(value)

    def uuid(self, name: str) -> UUID | None:
        value = self.values.get(name)
        if value is None:
            return None
        found = uuid_of(value)
        if found is None:
            self.wrong(name, "invalid_uuid", "must be a UUID like 550e8400-e29b-41d4-a716-446655440000")
        return found

    def instant(self, name: str) -> datetime | None:
        """ISO 8601; without an offset it is UTC. A `+` that was not escaped arrives as a blank and is understood."""
        value = self.values.get(name)
        if value is None:
            return None
        try:
            return _instant(value)
        except (ValueError, OverflowError):
            self.wrong(name, "invalid_instant", "must be an ISO 8601 instant like 2026-11-22T10:45:00Z")
            return None


def _instant(value: str) -> datetime:
    found = datetime.fromisoformat(value.replace(" ", "+") if "T" in value else value)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def uuid_of(text: str) -> UUID | None:
    """A UUID in its canonical form of 36 characters, either case; None for anything else."""
    return UUID(text) if _UUID.fullmatch(text) else None
