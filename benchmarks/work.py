"""The work that everybody does: items of 250 bytes that are answered with 250 bytes, without anything being done."""

import json
from collections.abc import Iterable

ITEM_BYTES = 250
PER_BATCH = 1000  # the most that one POST takes


def text_of(number: int) -> str:
    """Different for each item, so that an answer shows which input it belongs to."""
    empty = len(json.dumps({"text": ""}, separators=(",", ":")))
    return f"{number:012d}".ljust(ITEM_BYTES - empty, "x")


def input_of(number: int) -> dict[str, str]:
    return {"text": text_of(number)}


def custom_id_of(number: int) -> str:
    return f"item-{number:07d}"


def bodies(items: int, processor: str = "noop") -> list[bytes]:
    """Of the POSTs that create batches of at most 1,000 items each."""
    return [
        _body(range(first, min(first + PER_BATCH, items)), processor) for first in range(0, items, PER_BATCH)
    ]


def _body(numbers: range, processor: str) -> bytes:
    requests = [{"custom_id": custom_id_of(number), "input": input_of(number)} for number in numbers]
    return json.dumps({"processor": processor, "requests": requests}, separators=(",", ":")).encode()


def check(lines: Iterable[bytes], items: int) -> None:
    """Every item is there exactly once, has succeeded, and carries its own answer. Raises AssertionError."""
    seen: set[str] = set()
    count = 0
    for line in lines:
        count += 1
        result = json.loads(line)
        number = int(result["custom_id"].removeprefix("item-"))
        assert result["status"] == "success", result
        assert result["output"] == input_of(number), result
        seen.add(result["custom_id"])
    assert len(seen) == count == items, f"{count} results, {len(seen)} different ones, of {items} items"
