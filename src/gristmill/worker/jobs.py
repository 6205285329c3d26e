"""What the items of a batch share, kept ready for the next claim of it."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gristmill.db import Database, Transaction
from gristmill.processors.base import Processor, Services
from gristmill.store import assignments
from gristmill.store.assignments import Assignment
from gristmill.worker.circuits import Circuits
from gristmill.worker.work import Job, Load, prepared

JOBS_KEPT = 500  # batches whose configuration stays parsed


class Jobs:
    """`loads`: of the processors by name."""

    def __init__(
        self,
        database: Database,
        services: Services,
        processors: Mapping[str, Processor[Any, Any]],
        circuits: Circuits,
        loads: Mapping[str, Load],
    ) -> None:
        self._database = database
        self._services = services
        self._processors = processors
        self._circuits = circuits
        self._loads = loads
        self._jobs: OrderedDict[UUID, Job] = OrderedDict()

    async def of(
        self, batch_id: UUID, assignment: Assignment | None, connection: Transaction | None = None
    ) -> Job | None:
        """`assignment`: of a batch that begins; `connection`: one that the caller has. None: the batch has been deleted."""
        if (known := self._jobs.get(batch_id)) is not None:
            self._jobs.move_to_end(batch_id)
            return known
        if assignment is None and connection is not None:
            assignment = await assignments.load(connection, batch_id)
        elif assignment is None:
            async with self._database.connection() as own:
                assignment = await assignments.load(own, batch_id)
        return None if assignment is None else self.prepared(assignment)

    def prepared(self, assignment: Assignment) -> Job:
        processor = self._processors[assignment.processor]
        name = assignment.circuit
        circuit = None if name is None else self._circuits.of(assignment.tenant_id, name)
        job = prepared(assignment, self._loads[processor.name], processor, self._services, circuit)
        if assignment.upstream is not None:  # a retry may bring another key, and none is to outlive its use
            return job
        self._jobs[assignment.batch_id] = job
        if len(self._jobs) > JOBS_KEPT:
            self._jobs.popitem(last=False)
        return job
