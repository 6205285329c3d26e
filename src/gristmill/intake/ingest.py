"""A file as the items of a batch: read and checked a thousand at a time, whoever stores them or only wants to know."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import UUID

from gristmill.db import Database
from gristmill.domain.errors import Problem
from gristmill.intake import cycles, items, snapshots
from gristmill.intake.draft import AnyProcessor, Draft, read_requests
from gristmill.intake.items import PROBLEMS_EACH
from gristmill.intake.problems import MAX_PROBLEMS, pointer
from gristmill.intake.rows import Row
from gristmill.intake.source import FileOptions, take
from gristmill.processors.agent_message import AgentMessageConfig
from gristmill.store.new_batches import NewItem

CHUNK = 1000  # records; the loop is busy for some 2 ms with each …
LARGE_SIZE = 256 * 1024  # … but with more than so much text it could be 50, and it is done in a thread
_SIZE = attrgetter("size")


class BadSource(Exception):
    """The file cannot be the batch's. `problems` are at most 100."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems[:MAX_PROBLEMS]


class Reading:
    """Reads one file. `agents` grows by those that its records name; None: the processor is another."""

    def __init__(
        self,
        database: Database,
        tenant_id: UUID,
        options: FileOptions,
        processor: AnyProcessor,
        agents: AgentMessageConfig | None,
        *,
        allow_private: bool,
    ) -> None:
        self.agents = agents
        self._database = database
        self._tenant_id = tenant_id
        self._options = options
        self._processor = processor
        self._allow_private = allow_private
        self._problems: list[Problem] = []

    async def items(self, path: Path) -> AsyncIterator[list[NewItem]]:
        """What can be stored, in the order of the file; nothing more once something is wrong. Raises BadSource, at the end.

        That a custom id comes twice is only seen within a thousand records: elsewhere the table sees it.
        """
        rows = await asyncio.to_thread(self._options.rows, path, self._processor.input_model)
        while True:
            with cycles.left_alone():
                chunk = await asyncio.to_thread(take, rows, CHUNK)
                checked = await self._checked(chunk) if chunk else []
            if not chunk:
                break
            if not self._problems:
                yield checked
            elif len(self._problems) >= MAX_PROBLEMS:
                break
        if self._problems:
            raise BadSource(self._problems)

    async def _checked(self, rows: list[Row]) -> list[NewItem]:
        failing = self._options.fail_items
        if not failing:
            self._problems += [row.problem for row in rows if row.problem]
            rows = [row for row in rows if row.problem is None]
        draft = Draft(allow_private=self._allow_private)
        each = PROBLEMS_EACH if failing else None
        requests = [_unreadable(row) if row.request is None else row.request for row in rows]
        if sum(map(_SIZE, rows)) <= LARGE_SIZE:
            read_requests(requests, self._processor, draft, each=each)
        else:
            await asyncio.to_thread(read_requests, requests, self._processor, draft, each=each)
        if self.agents is not None:
            default = self.agents.agent_id
            found = await snapshots.of_agents(self._database, self._tenant_id, default, draft, self.agents)
            self.agents = found or self.agents
        texts = items.texts(draft)
        if failing:
            draft.set_aside()
            draft.refused.update({index: [row.problem] for index, row in enumerate(rows) if row.problem})
        self._problems += [_placed(problem, rows) for problem in draft.problems]
        return [] if self._problems else items.of(self._processor, draft, texts)


def _unreadable(row: Row) -> dict[str, Any]:
    """Stands for a record that fails by itself, so that there is something to name it by."""
    return {"custom_id": f"line-{row.line}", "input": None}


def _placed(problem: Problem, rows: list[Row]) -> Problem:
    """With the line of the file in place of the request's number among the rows."""
    _, kind, index, *rest = [*problem.pointer.split("/", 3), "", ""][:4]
    if kind != "requests":
        return problem
    inside = f"/{rest[0]}" if rest[0] else ""
    return Problem(pointer("lines", rows[int(index)].line) + inside, problem.code, problem.detail)


def repeated(rows: Iterator[Row]) -> list[Problem]:
    """The records whose custom id an earlier one has. Keeps a number for each record: some 100 bytes. For a thread."""
    seen: dict[int, int] = {}
    problems: list[Problem] = []
    for row in rows:
        custom_id: Any = row.request.get("custom_id") if row.request else None
        first = seen.setdefault(hash(custom_id), row.line)
        if first != row.line:
            at = pointer("lines", row.line, "custom_id")
            problems.append(Problem(at, "duplicate_custom_id", f"the same as in line {first}"))
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems
