"""From the commit of a batch to the start of its first item, on a service that has nothing else to do."""

import json
import time

from benchmarks import work
from benchmarks.postgres import Postgres, fetch
from benchmarks.service import Service, serving

END_SECONDS = 30.0
LOOK_SECONDS = 0.03  # between looks for the end: nothing else shall run while an item waits for its start

# The rows of items are never touched again, so their transaction is the one that made the batch.
_COMMITTED = """
SELECT batch_id::text, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
FROM item WHERE ordinal = 0 ORDER BY 2
"""


def milliseconds(postgres: Postgres, samples: int, *, lone_worker: bool) -> list[float]:
    """Ascending, one for each batch of one item; posted one after the other, each when the one before has ended.

    The clock is the machine's, read by Postgres at the commit and by the processor when it begins.
    """
    body = work.bodies(1, "clock")[0]
    with serving(postgres, "bench_wake", lone_worker=lone_worker) as service:
        began = dict(_one(service, body) for _ in range(samples + 1))
        committed = fetch(service.database_url, _COMMITTED)
    waits = [(began[batch_id] - at) * 1e3 for batch_id, at in committed]
    return sorted(waits[1:])  # the first finds everything cold


def _one(service: Service, body: bytes) -> tuple[str, float]:
    """Posts a batch and waits for its end; answers with its id and when its item began, in Unix seconds."""
    batch_id = service.client.create(body)
    time.sleep(LOOK_SECONDS)
    end = time.monotonic() + END_SECONDS
    while service.client.get(f"/api/v1/batches/{batch_id}")["data"]["status"] != "completed":
        if time.monotonic() > end:
            raise TimeoutError(f"a batch of one item has not ended after {END_SECONDS:g} seconds")
        time.sleep(LOOK_SECONDS)
    (line,) = service.client.lines(batch_id)
    return batch_id, float(json.loads(line)["output"]["began"])
