"""A batch's stored configuration, as it reaches a processor."""

from typing import Any

import orjson
from pydantic import BaseModel, SecretStr

from factories import get, make_batch, sql
from gristmill.db import Database
from gristmill.domain.outcomes import Outcome, Success
from gristmill.domain.states import TERMINAL
from gristmill.processors.base import Context, Processor
from gristmill.processors.secrets import binding, taken_out
from gristmill.vault import Vault
from mill import VAULT, eventually, working


class Config(BaseModel):
    host: str
    passwords: list[SecretStr]


class Nothing(BaseModel):
    text: str = ""


class Strangers(Processor[Nothing, Config]):
    """Tells what it was given: what no processor should do."""

    name = "strangers"
    input_model = Nothing
    config_model = Config

    async def run(self, given: Nothing, context: Context[Config]) -> Outcome:
        config = context.config
        return Success([config.host, [one.get_secret_value() for one in config.passwords], repr(config)])


async def run(database: Database, vault: Vault = VAULT, bound_to: str | None = None) -> Any:
    """The output of a batch's one item, or its error."""
    shown, secrets = taken_out(Config(host="h", passwords=[SecretStr("one"), SecretStr("two")]))
    batch_id = await make_batch(database, 1, processor="strangers", config=shown, start_paused=True)
    assert secrets is not None
    sealed = vault.encrypt(secrets, bound_to or binding(batch_id))
    await sql(database, "UPDATE batch SET config_secrets = $1, status = 'in_progress'", sealed)
    await sql(database, "UPDATE batch_schedule SET paused = false")

    async def ended() -> bool:
        return (await get(database, batch_id)).status in TERMINAL

    async with working(database, Strangers()):
        await eventually(ended)
    [(output, error)] = await sql(database, "SELECT output, error FROM result")
    return orjson.loads(output or error)


async def test_a_strangers_processor_gets_its_secrets_in_clear(database: Database) -> None:
    host, passwords, representation = await run(database)
    assert (host, passwords) == ("h", ["one", "two"])
    assert "one" not in representation


async def test_under_another_secret_key_items_fail_with_what_to_do(database: Database) -> None:
    error = await run(database, Vault(b"another secret key, long enough"))
    assert error["type"] == "secret_unreadable"
    assert "GRISTMILL_SECRET_KEY" in error["suggestion"]


async def test_secrets_copied_from_another_batch_do_not_open(database: Database) -> None:
    assert (await run(database, bound_to=binding("another")))["type"] == "secret_unreadable"


async def test_a_configuration_that_does_not_fit_any_more_says_so(database: Database) -> None:
    batch_id = await make_batch(database, 1, processor="strangers", config='{"host": "h"}')

    async def ended() -> bool:
        return (await get(database, batch_id)).status in TERMINAL

    async with working(database, Strangers()):
        await eventually(ended)
    [error] = await sql(database, "SELECT error FROM result")
    assert orjson.loads(error)["type"] == "configuration_unfit"
