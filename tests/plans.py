"""What Postgres says of the plans of statements as the product runs them (auto_explain)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest

from factories import sql
from gristmill.db import Database


class Watched:
    """A connection, and the rows that its statements have handled since the last look."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection
        self._plans: list[str] = []
        connection.add_log_listener(lambda _, message: self._plans.append(str(message.message)))  # type: ignore[attr-defined]

    async def rows(self, least: int = 2) -> int:
        """Of at least so many statements."""
        return round(sum(_handled(node) for node in await self.nodes(least)))

    async def nodes(self, least: int = 2) -> list[dict[str, Any]]:
        """All nodes of the plans of at least so many statements, as far as they were run."""
        await self.connection.execute("SELECT 1")  # the notices before it have come
        await asyncio.sleep(0)
        plans = [orjson.loads(text.partition("plan:")[2]) for text in self._plans if "plan:" in text]
        self._plans.clear()
        own = [
            plan["Plan"] for plan in plans if "pg_catalog" not in plan["Query Text"]
        ]  # else the driver's, about types
        assert len(own) >= least, "no plan was told"
        return [node for plan in own for node in _nodes(plan) if node["Actual Loops"]]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


_REMOVED = ("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")


def _handled(node: dict[str, Any]) -> float:
    """Rows it gave on, and those it looked at in vain. Each is a mean over its loops."""
    each: float = node["Actual Rows"] + sum(node.get(name, 0) for name in _REMOVED)
    return each * node["Actual Loops"]


@asynccontextmanager
async def watched(database: Database, mode: str, *, analyze: bool = True) -> AsyncIterator[Watched]:
    """`mode`: of the plan cache. Statistics are taken before, unless they are to stay as they are."""
    if analyze:
        await sql(database, "ANALYZE")
    connection = await database.connect()
    try:
        await connection.execute("LOAD 'auto_explain'")
        options = {"log_min_duration": "0", "log_analyze": "on", "log_timing": "off", "log_format": "json"}
        for name, value in {**options, "log_level": "notice"}.items():
            await connection.execute(f"SET auto_explain.{name} = {value}")
        await connection.execute(f"SET plan_cache_mode = {mode}")
        yield Watched(connection)
    except asyncpg.UndefinedFileError:
        pytest.skip("this Postgres comes without auto_explain")
    finally:
        await connection.close()
