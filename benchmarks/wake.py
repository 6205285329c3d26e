"""From the commit of a batch to the start of its first item, on a service that has nothing else to do."""

import json
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import NamedTemporaryFile

from benchmarks import work
from benchmarks.postgres import Postgres, fetch, running
from benchmarks.report import quantile
from benchmarks.service import Service, serving

END_SECONDS = 30.0
LOOK_SECONDS = 0.03  # between looks for the end: nothing else shall run while an item waits for its start

# Which worker: what `measure` is to know of that.
WAYS = {
    "of the same process, born leased": {},
    "of the same process, by a claim": {"claimed": True},
    "of another process": {"lone_worker": True},
}

# The rows of items are never touched again, so their transaction is the one that made the batch.
_COMMITTED = """
SELECT batch_id::text, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
FROM item WHERE ordinal = 0 ORDER BY 2
"""


@dataclass(frozen=True)
class Waits:
    """Of each batch, in ascending milliseconds; all by the machine's clock."""

    committed: list[float]  # since Postgres wrote the commit's record: before it was on the disk
    answered: list[float]  # since the process that made the batch had the answer to its COMMIT

    def __str__(self) -> str:
        return f"{_told(self.answered)}; from when its record was written {_told(self.committed)}"


def measure(postgres: Postgres, samples: int, *, lone_worker: bool = False, claimed: bool = False) -> Waits:
    """For each batch of one item; posted one after the other, each when the one before has ended.

    `claimed`: not born leased, although the worker is in the same process; one that was refused is with it, for that.
    """
    body = json.loads(work.bodies(1, "clock")[0])
    if claimed:
        body["requests"].append({"custom_id": "refused", "input": {}})
        body["on_invalid"] = "fail_items"
    with NamedTemporaryFile("r") as stamps:
        with serving(postgres, "bench_wake", lone_worker=lone_worker, stamps=stamps.name) as service:
            began = dict(_one(service, json.dumps(body).encode()) for _ in range(samples + 1))
            committed = fetch(service.database_url, _COMMITTED)
        answers = [float(line) for line in stamps]
    of_interest = [(began[batch_id], at) for batch_id, at in committed][1:]  # the first finds everything cold
    return Waits(
        sorted((start - at) * 1e3 for start, at in of_interest),
        sorted((start - _first_after(at, answers)) * 1e3 for start, at in of_interest),
    )


def _told(ascending: Sequence[float]) -> str:
    return (
        ", ".join(f"p{share * 100:.0f} {quantile(ascending, share):.2f}" for share in (0.5, 0.9, 0.99))
        + " ms"
    )


def _first_after(at: float, ascending: Sequence[float]) -> float:
    return ascending[bisect_left(ascending, at)]


def _one(service: Service, body: bytes) -> tuple[str, float]:
    """Posts a batch and waits for its end; answers with its id and when its item began, in Unix seconds."""
    batch_id = service.client.create(body)
    time.sleep(LOOK_SECONDS)
    end = time.monotonic() + END_SECONDS
    while service.client.get(f"/api/v1/batches/{batch_id}")["data"]["status"] != "completed":
        if time.monotonic() > end:
            raise TimeoutError(f"a batch of one item has not ended after {END_SECONDS:g} seconds")
        time.sleep(LOOK_SECONDS)
    line = service.client.lines(batch_id)[0]
    return batch_id, float(json.loads(line)["output"]["began"])


if __name__ == "__main__":
    with running() as postgres:
        for where, how in WAYS.items():
            print(f"{where}: {measure(postgres, 300, **how)}", flush=True)
