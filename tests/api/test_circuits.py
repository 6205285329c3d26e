"""What a created batch says of whom its items call: enough to know the same again, and nothing more."""

from typing import Any
from uuid import UUID

import pytest

from factories import sql
from gristmill.db import Database
from service import Caller

KEY = "sk-of-the-caller-0123456789"
URL = "https://sink.example.com/a-secret-path"


async def circuit(caller: Caller, database: Database, **body: Any) -> str | None:
    batch = await caller.batch([{"custom_id": "a", "input": body.pop("input")}], **body)
    statement = "SELECT circuit FROM {} WHERE {} = $1"
    [of_batch] = await sql(database, statement.format("batch", "id"), UUID(batch["id"]))
    [scheduled] = await sql(database, statement.format("batch_schedule", "batch_id"), UUID(batch["id"]))
    assert of_batch == scheduled
    found: str | None = of_batch
    return found


ASK = {"messages": [{"role": "user", "content": "hello"}]}
TEXT = {"text": "x" * 60}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"processor": "completion", "input": ASK}, "model"),
        ({"processor": "completion", "input": ASK, "upstream": {"model": "mine"}}, "model"),
        ({"processor": "parse", "input": TEXT}, None),
        ({"processor": "parse", "input": TEXT, "config": {"mode": "agentic"}}, "model"),
    ],
)
async def test_items_call_the_model_with_the_operator_s_key_or_nobody(
    caller: Caller, database: Database, body: dict[str, Any], expected: str | None
) -> None:
    assert await circuit(caller, database, **body) == expected


async def test_a_key_or_a_url_is_known_again_and_cannot_be_read(
    caller: Caller, other: Caller, database: Database
) -> None:
    own = {"processor": "completion", "input": ASK, "upstream": {"api_key": KEY}}
    to_url = {"processor": "http", "input": {}, "config": {"url": URL}}
    to_sink = {"processor": "pipeline", "input": TEXT, "config": {"sink": {"url": URL}}}
    names = [await circuit(caller, database, **dict(body)) for body in (own, own, to_url, to_sink)]
    assert names[0] == names[1]
    assert names[2] == names[3]
    assert await circuit(other, database, **own) == names[0]
    another = await circuit(caller, database, **own | {"upstream": {"api_key": KEY + "x"}})
    assert another not in (names[0], "model")
    for name, kind in zip(names, ("model:", "model:", "url:", "url:"), strict=True):
        assert name is not None
        assert name.startswith(kind)
        assert len(name) < 60
        assert KEY not in name
        assert "sink" not in name
