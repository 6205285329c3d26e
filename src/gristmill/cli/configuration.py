"""The settings, with a mistake in them told by name and never by value."""

from typing import Any

from pydantic import ValidationError

from gristmill.cli.refusal import Refusal
from gristmill.settings import PREFIX, Settings


def load(**chosen: Any) -> Settings:
    """From the environment; `chosen` on the command line wins where it is not None."""
    try:
        return Settings(**{name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False, include_context=False)
        raise Refusal("; ".join(_told(one["loc"], one["msg"]) for one in mistakes)) from None
    except (OSError, UnicodeDecodeError) as error:  # of a variable that names a file
        raise Refusal(f"a {PREFIX}…_FILE cannot be read: {error}") from None


def _told(location: tuple[int | str, ...], message: str) -> str:
    """A mistake without a place is of those settings that only make sense together."""
    return (
        f"{PREFIX}{str(location[0]).upper()}: {message.lower()}" if location else f"{PREFIX}JWT_…: {message}"
    )
