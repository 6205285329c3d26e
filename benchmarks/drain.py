"""No-op items through the public API: in by POSTs of 1,000, drained by one worker process, read back and checked."""

import statistics
import time
from dataclasses import dataclass, field
from datetime import datetime

from benchmarks import work
from benchmarks.meter import Meter
from benchmarks.postgres import Postgres, fetch
from benchmarks.service import Service, serving

DRAIN_SECONDS = 300.0


@dataclass(frozen=True)
class Drained:
    """Seconds are of the wall, CPU seconds of its own processes and of what it stores in. `other`: cores that strangers used."""

    name: str
    items: int
    ingest_seconds: float
    drain_seconds: float
    ingest_own: float
    ingest_store: float
    drain_own: float
    drain_store: float
    other: float
    more: dict[str, float] = field(default_factory=dict)

    @property
    def ingested_per_second(self) -> float:
        return self.items / self.ingest_seconds

    @property
    def drained_per_second(self) -> float:
        return self.items / self.drain_seconds

    @property
    def ingest_microseconds(self) -> float:
        return (self.ingest_own + self.ingest_store) / self.items * 1e6

    @property
    def drain_microseconds(self) -> float:
        return (self.drain_own + self.drain_store) / self.items * 1e6

    @property
    def microseconds(self) -> float:
        return self.ingest_microseconds + self.drain_microseconds


def apart(postgres: Postgres, items: int) -> Drained:
    """`serve --no-worker` and one `gristmill worker`, which is held until everything is in.

    The drain lasts from the first item's start, as peers' do from their first job's, to the last batch's `completed_at`; its CPU
    is counted from letting the worker go.
    """
    bodies = work.bodies(items)
    with serving(postgres, "bench_apart", lone_worker=True) as service:
        assert service.worker is not None
        service.worker.hold()
        with Meter(service.cpu) as ingest:
            batch_ids, posts = _post(service, bodies)
        with Meter(service.cpu) as drain:
            service.worker.go()
            service.client.until_ended(len(batch_ids), timeout_seconds=DRAIN_SECONDS)
        began, ended = _first_start(service), _last_end(service, batch_ids)
        more = _read_back(service, batch_ids, items)
        more |= {
            "post_p50_ms": statistics.median(posts) * 1e3,
            "post_p90_ms": statistics.quantiles(posts, n=10)[-1] * 1e3,
            "post_server_cpu_ms": ingest.cpu["server"] / len(bodies) * 1e3,
            "post_postgres_cpu_ms": ingest.cpu["postgres"] / len(bodies) * 1e3,
            "client_us": (ingest.cpu["client"] + drain.cpu["client"]) / items * 1e6,
        }
    return Drained(
        name="gristmill, serve --no-worker + worker",
        items=items,
        ingest_seconds=ingest.seconds,
        drain_seconds=ended - began,
        ingest_own=ingest.cpu["server"] + ingest.cpu["worker"],
        ingest_store=ingest.cpu["postgres"],
        drain_own=drain.cpu["server"] + drain.cpu["worker"],
        drain_store=drain.cpu["postgres"],
        other=max(ingest.other, drain.other),
        more=more,
    )


def together(postgres: Postgres, items: int) -> dict[str, float]:
    """`gristmill serve` alone: it takes the POSTs and works the items off at the same time."""
    bodies = work.bodies(items)
    with serving(postgres, "bench_together", lone_worker=False) as service:
        with Meter(service.cpu) as meter:
            began = time.time()
            batch_ids, _ = _post(service, bodies)
            service.client.until_ended(len(batch_ids), timeout_seconds=DRAIN_SECONDS)
        seconds = _last_end(service, batch_ids) - began
        _read_back(service, batch_ids, items)
    return {
        "per_second": items / seconds,
        "python_us": meter.microseconds("server", items),
        "postgres_us": meter.microseconds("postgres", items),
        "other": meter.other,
    }


def _post(service: Service, bodies: list[bytes]) -> tuple[list[str], list[float]]:
    """Creates the batches one after the other; answers with their ids and how long each took."""
    ids, seconds = [], []
    for body in bodies:
        began = time.perf_counter()
        ids.append(service.client.create(body))
        seconds.append(time.perf_counter() - began)
    return ids, seconds


def _first_start(service: Service) -> float:
    """Unix seconds."""
    [(began,)] = fetch(service.database_url, "SELECT extract(epoch FROM min(started_at))::float8 FROM result")
    return float(began)


def _last_end(service: Service, batch_ids: list[str]) -> float:
    """Unix seconds."""
    ends = [service.client.get(f"/api/v1/batches/{one}")["data"]["completed_at"] for one in batch_ids]
    return max(datetime.fromisoformat(end).timestamp() for end in ends)


def _read_back(service: Service, batch_ids: list[str], items: int) -> dict[str, float]:
    """Reads all results as NDJSON, then checks them."""
    with Meter(service.cpu) as meter:
        lines = [line for one in batch_ids for line in service.client.lines(one)]
    work.check(lines, items)
    return {
        "ndjson_per_second": items / meter.seconds,
        "ndjson_us": meter.microseconds("server", items) + meter.microseconds("postgres", items),
    }
