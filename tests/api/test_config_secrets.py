"""What of a configuration must never be seen again, and which URLs it may name."""

from typing import Any

import orjson
import pytest

from gristmill.db import Database
from gristmill.vault import VaultError
from service import VAULT, Caller, problems

BATCHES = "/api/v1/batches"
SECRET, HEADER = "a-signing-secret-0123456789", "Bearer of-mine-0123456789"
CONFIG = {"url": "https://example.com/work", "secret": SECRET, "headers": {"Authorization": HEADER}}
REQUESTS = [{"custom_id": "a", "input": {"n": 1}}]


async def stored(database: Database) -> tuple[Any, bytes | None]:
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT config, config_secrets FROM batch")
    assert row is not None
    return orjson.loads(row[0]), row[1]


async def test_secrets_are_stored_encrypted_and_bound_to_their_batch(
    caller: Caller, database: Database
) -> None:
    batch = await caller.batch(REQUESTS, processor="http", config=CONFIG)
    config, secrets = await stored(database)
    assert config == CONFIG | {"secret": "**********", "headers": {"Authorization": "**********"}}
    assert secrets is not None
    assert SECRET.encode() not in secrets
    assert HEADER.encode() not in secrets
    opened = orjson.loads(VAULT.decrypt(secrets, f"config:{batch['id']}"))
    assert opened == [[["secret"], SECRET], [["headers", "Authorization"], HEADER]]
    with pytest.raises(VaultError):
        VAULT.decrypt(secrets, "config:00000000-0000-7000-8000-000000000001")


async def test_no_route_shows_a_secret(caller: Caller) -> None:
    batch = await caller.batch(REQUESTS, processor="http", config=CONFIG, name="x")
    paths = ["", f"/{batch['id']}", f"/{batch['id']}/results", f"/{batch['id']}/results/a"]
    shown = [str(batch), *[(await caller.get(BATCHES + path)).text for path in paths]]
    shown.append((await caller.post(f"{BATCHES}/{batch['id']}/cancel")).text)
    for text in shown:
        assert batch["id"] in text or "custom_id" in text
        assert SECRET not in text
        assert HEADER not in text


async def test_a_refusal_repeats_no_secret(caller: Caller) -> None:
    wrong = CONFIG | {"headers": {"Host": HEADER}, "secret": SECRET * 20, "timeout_seconds": "soon"}
    answer = await caller.post(BATCHES, {"processor": "http", "config": wrong, "requests": REQUESTS})
    assert problems(answer) == {
        "/config/headers": "header_name",
        "/config/secret": "too_long",
        "/config/timeout_seconds": "float_type",
    }
    assert SECRET not in answer.text
    assert HEADER not in answer.text


async def test_a_configuration_without_secrets_is_kept_as_it_was_given(
    caller: Caller, database: Database
) -> None:
    await caller.batch(REQUESTS, processor="http", config={"url": CONFIG["url"]})
    assert await stored(database) == ({"url": CONFIG["url"]}, None)


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://127.0.0.1/", "https://169.254.169.254/", "https://localhost/", "x"],
)
async def test_an_address_that_may_not_be_called_is_refused_before_a_row_exists(
    caller: Caller, database: Database, url: str
) -> None:
    body = {"processor": "http", "config": {"url": url}, "requests": REQUESTS}
    assert problems(await caller.post(BATCHES, body)) == {"/config/url": "address_refused"}
    sink = {"processor": "pipeline", "config": {"sink": {"url": url}}}
    text = {"requests": [{"custom_id": "a", "input": {"text": "x"}}]}
    assert problems(await caller.post(BATCHES, sink | text)) == {"/config/sink/url": "address_refused"}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM batch") == 0


async def test_secrets_are_marked_as_such_in_the_schema(caller: Caller) -> None:
    schema = (await caller.data("/api/v1/processors/http"))["config_schema"]["properties"]
    assert schema["headers"]["additionalProperties"]["writeOnly"] is True
    assert any(one.get("writeOnly") for one in schema["secret"]["anyOf"])
