"""GET of one batch, over several kept-alive connections at once."""

from benchmarks import work
from benchmarks.meter import Meter
from benchmarks.postgres import Postgres
from benchmarks.service import serving

CONNECTIONS = 16
END_SECONDS = 60.0


def one_batch(postgres: Postgres, requests: int) -> dict[str, float]:
    """Requests a second for each core of CPU that the server and Postgres used, and CPU microseconds of both."""
    rounds = max(1, requests // CONNECTIONS)
    with serving(postgres, "bench_reads", lone_worker=False) as service:
        batch_id = service.client.create(work.bodies(work.PER_BATCH)[0])
        service.client.until_ended(1, timeout_seconds=END_SECONDS)
        path = f"/api/v1/batches/{batch_id}"
        service.client.requests_per_second(path, connections=CONNECTIONS, rounds=20)  # warm
        with Meter(service.cpu) as meter:
            per_second = service.client.requests_per_second(path, connections=CONNECTIONS, rounds=rounds)
    sent = rounds * CONNECTIONS
    return {
        "per_second": per_second,
        "per_server_core": sent / meter.cpu["server"],
        "server_us": meter.microseconds("server", sent),
        "postgres_us": meter.microseconds("postgres", sent),
        "other": meter.other,
    }
