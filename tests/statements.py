"""What the engine says to Postgres, function by function, and by which batch each statement finds its rows.

Postgres itself tells: conditions are read off its plans (EXPLAIN with GENERIC_PLAN, from version 16 on), where they are
resolved whatever the SQL looks like, and where it has derived those that follow from others.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partialmethod
from io import BytesIO
from typing import Any

import asyncpg
import orjson

from gristmill.db import Database
from gristmill.tables import PARTITIONED, metadata

BIG = frozenset(PARTITIONED)
# Which column names the batch.
KEYS = {
    table.name: "id" if table.name in {"batch", "batch_tombstone"} else "batch_id"
    for table in metadata.sorted_tables
    if "batch_id" in table.columns or table.name in {"batch", "batch_tombstone"}
}


@dataclass(frozen=True)
class Heard:
    """A statement of the function `where` (module.name) of the store; of a COPY: its table, and how many batches it brought."""

    where: str
    text: str
    copied: tuple[str, int] | None = None


def _where() -> str | None:
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        comprehension = frame.f_code.co_name.startswith("<")
        if module.startswith("gristmill.store.") and not comprehension:
            return f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
        frame = frame.f_back
    return None


def _listening(heard: list[Heard]) -> "type[asyncpg.Connection[asyncpg.Record]]":
    """A class of connections that write into `heard` what the store says over them."""

    class Listening(asyncpg.Connection):  # type: ignore[type-arg]
        def _hear(self, name: str, text: str, *args: Any, **more: Any) -> Any:
            if (where := _where()) and "SAVEPOINT" not in text:
                heard.append(Heard(where, text))
            return getattr(asyncpg.Connection, name)(self, text, *args, **more)

        fetch = partialmethod(_hear, "fetch")
        fetchrow = partialmethod(_hear, "fetchrow")
        fetchval = partialmethod(_hear, "fetchval")
        execute = partialmethod(_hear, "execute")

        async def copy_records_to_table(
            self, table_name: str, *, records: Any, columns: Any, **more: Any
        ) -> str:
            records = list(records)
            batches = {row[list(columns).index("batch_id")] for row in records}
            heard.append(Heard(_where() or "?", f"COPY {table_name}", (table_name, len(batches))))
            return await super().copy_records_to_table(table_name, records=records, columns=columns, **more)  # type: ignore[no-any-return]

        async def copy_to_table(self, table_name: str, *, source: Any, columns: Any, **more: Any) -> str:
            text = b"".join([piece async for piece in source])
            place = list(columns).index("batch_id")
            if more.get("format") == "binary":
                batches = {row[place] or b"" for row in unpacked(text)}
            else:
                batches = {line.split(b"\t")[place] for line in text.split(b"\n") if line}
            heard.append(Heard(_where() or "?", f"COPY {table_name}", (table_name, len(batches))))
            return await super().copy_to_table(table_name, source=BytesIO(text), columns=columns, **more)  # type: ignore[no-any-return]

    return Listening


def unpacked(copied: bytes) -> list[list[bytes | None]]:
    """The rows of a COPY in the binary form, field by field."""
    rows, at = (
        list[list[bytes | None]](),
        19,
    )  # behind signature, flags and the length of the rest of the header
    while (count := int.from_bytes(copied[at : at + 2], signed=True)) != -1:
        at += 2
        row = list[bytes | None]()
        for _ in range(count):
            length = int.from_bytes(copied[at : at + 4], signed=True)
            at += 4
            row.append(None if length == -1 else copied[at : at + length])
            at += max(length, 0)
        rows.append(row)
    assert at + 2 == len(copied)
    return rows


class HeardDatabase(Database):
    """What the store says over the pool is written down in `heard`."""

    async def open(self) -> "HeardDatabase":
        self.heard: list[Heard] = []
        kind = _listening(self.heard)
        self.pool = await asyncpg.create_pool(
            min_size=1, max_size=5, connection_class=kind, connect=self._connect_for_pool
        )
        return self


# --- plans -----------------------------------------------------------------------------------------------------------

_NAME = r'[a-z_]\w*(?:"?\.)[a-z_]\w*'
_EQUAL = re.compile(rf"(?<![\w.])({_NAME}|\$\d+)(?:::\w+)? = ({_NAME}|\$\d+)(?![\w.(])")
_ANY = re.compile(rf"(?<![\w.])({_NAME}) = ANY \((\$\d+)\)")
_GIVEN_ONE, _GIVEN_SEVERAL = "one", "several"


@dataclass
class Reach:
    """By which batch a statement finds the rows of each table: `one` and `several` are given to it, `unbound` it finds itself."""

    one: set[str] = field(default_factory=set)
    several: set[str] = field(default_factory=set)
    unbound: set[str] = field(default_factory=set)

    @property
    def tables(self) -> set[str]:
        return self.one | self.several | self.unbound


# EXECUTE without values: elsewhere the values that a driver has to bind would stand in the plan.
_EXPLAINED = """
CREATE OR REPLACE FUNCTION pg_temp.explained(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan text;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) ' || statement INTO plan;
    RETURN plan;
END $$
"""
_PARENTS = "SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits"
_PLACES = "SELECT attrelid::regclass::text, attname::text, attnum FROM pg_attribute WHERE attnum > 0 AND attname = ANY ($1)"


@dataclass
class Catalog:
    """`parents`: of partitions; `places`: of the columns that name batches, from 0, in what an INSERT puts in."""

    connection: Any
    parents: dict[str, str]
    places: dict[tuple[str, str], int]

    @classmethod
    async def of(cls, connection: Any) -> "Catalog":
        await connection.execute(_EXPLAINED)
        parents = dict(list(await connection.fetch(_PARENTS)))
        places = await connection.fetch(_PLACES, ["id", "batch_id"])
        return cls(connection, parents, {(table, name): number - 1 for table, name, number in places})

    async def reach(self, statement: str) -> Reach:
        plan = orjson.loads(await self.connection.fetchval("SELECT pg_temp.explained($1)", statement))
        return _reach(plan[0]["Plan"], self)


def _reach(plan: dict[str, Any], catalog: Catalog) -> Reach:
    nodes = list(_nodes(plan))
    same = _Same()
    for node in nodes:
        _learn(node, same)
        _link(node, nodes, same)
    found = Reach()
    for node in nodes:
        relation = node.get("Relation Name", "")
        table = catalog.parents.get(relation, relation)
        if table not in KEYS or (node["Node Type"] == "ModifyTable" and node["Operation"] != "Insert"):
            continue  # what is updated or deleted is scanned below
        inserts = node["Node Type"] == "ModifyTable"
        name = (
            _inserted(node, catalog.places[table, KEYS[table]])
            if inserts
            else f"{node['Alias']}.{KEYS[table]}"
        )
        getattr(found, same.kind(name)).add(table)
    found.several -= found.unbound
    found.one -= found.unbound | found.several
    return found


def _learn(node: dict[str, Any], same: "_Same") -> None:
    """What its conditions say is equal. A condition with an OR in it says nothing for certain."""
    for key, value in node.items():
        if (key.endswith(("Cond", "Filter"))) and " OR " not in value:
            for left, right in _EQUAL.findall(value):
                same.put(left, right)
            for name, _ in _ANY.findall(value):
                same.put(name, _GIVEN_SEVERAL)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


class _Same:
    """Which names hold the same value, with what is known of it."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def _root(self, name: str) -> str:
        while (up := self._of.get(name, name)) != name:
            name = up
        return name

    def put(self, left: str, right: str) -> None:
        a, b = (self._root(_known(one)) for one in (left, right))
        if a == _GIVEN_ONE or (a == _GIVEN_SEVERAL and b != _GIVEN_ONE):
            a, b = b, a
        if a not in {_GIVEN_ONE, _GIVEN_SEVERAL}:  # else both are known already, in one way or the other
            self._of[a] = b

    def kind(self, name: str) -> str:
        root = self._root(_known(name))
        return root if root in {_GIVEN_ONE, _GIVEN_SEVERAL} else "unbound"


def _known(name: str) -> str:
    return _GIVEN_ONE if name.startswith("$") else name


def _link(node: dict[str, Any], nodes: list[dict[str, Any]], same: _Same) -> None:
    """A list of values is given. The batch that a part of the statement has found is that of whoever reads the part, and the
    batch of a partition's row that of the table's."""
    kind, alias, relation = (node.get(key, "") for key in ("Node Type", "Alias", "Relation Name"))
    if kind == "Function Scan":
        for name in node.get("Output", ()):
            same.put(name, _GIVEN_SEVERAL)
    elif kind in {"CTE Scan", "Subquery Scan"}:
        _link_part(node, [_plain(one) for one in _source(node, nodes).get("Output", ())], same)
    elif "Scan" in kind and relation not in KEYS and (numbered := re.fullmatch(r"(\w+)_\d+", alias)):
        same.put(f"{alias}.batch_id", f"{numbered[1]}.batch_id")


def _link_part(node: dict[str, Any], outputs: list[str], same: _Same) -> None:
    batches = [one for one in outputs if _BATCH.fullmatch(one)]
    others = any(one.endswith(".id") and one not in batches for one in outputs)
    called = re.compile(r"\w+\.(batch_id|b|unnamed)" if others else r"\w+\.(batch_id|b|id|unnamed)")
    for name in map(_plain, node.get("Output", ())):
        if batches and called.fullmatch(name):
            same.put(name, batches[0])


_BATCH = re.compile(r"\w+\.(batch_id|b)|batch(_\d)?\.id|b\.id|\$\d+")


def _plain(name: str) -> str:
    name = name[1:-1] if re.fullmatch(r"\(\$\d+\)", name) else name
    return re.sub(r'"\*SELECT\*(_\d+)?"', r"select\1", name).replace('"?column?"', "unnamed")


def _source(node: dict[str, Any], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    if node["Node Type"] == "Subquery Scan":
        first: dict[str, Any] = node["Plans"][0]
        return first
    wanted = f"CTE {node['CTE Name']}"
    return next((one for one in nodes if one.get("Subplan Name") == wanted), {})


def _inserted(node: dict[str, Any], place: int) -> str:
    """What an INSERT puts where the batch is named."""
    (child,) = (one for one in node["Plans"] if one.get("Parent Relationship") == "Outer")
    return re.sub(r"::\w+$", "", _plain(child["Output"][place]).strip("()"))
