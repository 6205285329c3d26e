"""A reader of server-sent events, as the HTML Living Standard (9.2.6) has it, for the part that servers here use."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson


@dataclass(frozen=True)
class Event:
    """`id`: that of the event itself; None: it has none."""

    name: str
    data: Any
    id: str | None = None


def parse(stream: bytes) -> list[Event]:
    """All events of a stream that has ended. Comments and `retry` are passed over."""
    found = [_event(block.decode().split("\n")) for block in stream.split(b"\n\n")]
    return [one for one in found if one is not None]


async def events(answer: httpx2.Response) -> AsyncIterator[Event | str]:
    """As they arrive; a comment as its text."""
    lines: list[str] = []
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield line[1:].strip()
        elif line:
            lines.append(line)
        elif (found := _event(lines)) is not None:
            yield found
            lines = []
        else:
            lines = []


def _event(lines: list[str]) -> Event | None:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    if "data" not in fields:
        return None
    data = orjson.loads("\n".join(fields["data"]))
    return Event(fields.get("event", ["message"])[-1], data, fields.get("id", [None])[-1])  # type: ignore[list-item]
