"""What this process counts, for Prometheus. Each metric is defined once, here; the rooms call the functions.

Labels have few values by construction: routes are templates, never paths; no tenant, no batch, no id.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REGISTRY = CollectorRegistry()
ProcessCollector(namespace="gristmill", registry=REGISTRY)

_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_CALL_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_requests = Counter(
    "gristmill_http_requests", "HTTP requests answered", ("method", "route", "status"), registry=REGISTRY
)
_request_seconds = Histogram(
    "gristmill_http_request_seconds",
    "Time to the first byte of an answer",
    ("route",),
    buckets=_HTTP_SECONDS,
    registry=REGISTRY,
)
_followers = Gauge("gristmill_followers", "Who follows a batch at the moment", ("kind",), registry=REGISTRY)
_followers_gone = Counter(
    "gristmill_followers_gone", "Followers that follow no longer", ("kind", "reason"), registry=REGISTRY
)
_batches_created = Counter("gristmill_batches_created", "Batches accepted", ("processor",), registry=REGISTRY)
_items_created = Counter("gristmill_items_created", "Items accepted", ("processor",), registry=REGISTRY)
_items_ended = Counter(
    "gristmill_items_ended", "Results recorded", ("processor", "status", "code"), registry=REGISTRY
)
_items_requeued = Counter(
    "gristmill_items_requeued", "Runs that will be repeated", ("processor", "reason"), registry=REGISTRY
)
_items_in_flight = Gauge("gristmill_items_in_flight", "Items running in this process", registry=REGISTRY)
_spans_reclaimed = Counter(
    "gristmill_leases_lost", "Leases taken back from dead or stuck workers", registry=REGISTRY
)
_flush_seconds = Histogram("gristmill_flush_seconds", "Time to record a set of results", registry=REGISTRY)
_claim_seconds = Histogram("gristmill_claim_seconds", "Time to claim work", registry=REGISTRY)
_upstream_seconds = Histogram(
    "gristmill_upstream_call_seconds",
    "Calls to the model endpoint",
    ("status",),
    buckets=_CALL_SECONDS,
    registry=REGISTRY,
)
# Of circuits, `kind` is model (the model's endpoint, with whatever key) or url (what a configuration names).
_circuits_open = Gauge(
    "gristmill_circuits_open",
    "Endpoints left alone at the moment, as this process sees it",
    ("kind",),
    registry=REGISTRY,
)
_circuit_changes = Counter(
    "gristmill_circuit_changes",
    "Circuits opened and closed by this process",
    ("kind", "change"),
    registry=REGISTRY,
)
_limit_least = Gauge(
    "gristmill_adaptive_limit_least",
    "The lowest of the limits of items at one endpoint at once, in this process",
    ("kind",),
    registry=REGISTRY,
)
_limit_cuts = Gauge(
    "gristmill_adaptive_limits_reduced",
    "Endpoints whose limit is below the setting",
    ("kind",),
    registry=REGISTRY,
)
# Where calls to endpoints are limited for the whole service (upstream/permits.py).
_permits = Gauge(
    "gristmill_limited_calls",
    "Calls under limits of the whole service: granted to this process, used, and waiting for one",
    ("kind", "state"),
    registry=REGISTRY,
)
_upstream_tokens = Counter(
    "gristmill_upstream_tokens", "Tokens as the provider counts them", ("kind",), registry=REGISTRY
)
_deliveries = Counter("gristmill_webhook_attempts", "Webhook sends", ("outcome",), registry=REGISTRY)
_loop_step = Gauge(
    "gristmill_loop_last_step_timestamp_seconds",
    "When a loop last ended a step",
    ("loop",),
    registry=REGISTRY,
)
_loop_errors = Counter("gristmill_loop_errors", "Steps of a loop that raised", ("loop",), registry=REGISTRY)
# Of the whole service, not of this process (store/depth.py).
_queue_startable = Gauge(
    "gristmill_queue_startable_items",
    "Waiting items that more free slots would start now, in the whole service",
    ("processor",),
    registry=REGISTRY,
)
_queue_running = Gauge(
    "gristmill_queue_running_items",
    "Items in flight in the whole service",
    ("processor",),
    registry=REGISTRY,
)
_queue_oldest = Gauge(
    "gristmill_queue_oldest_seconds",
    "For so long the first of the startable items could have been started",
    ("processor",),
    registry=REGISTRY,
)
_QUEUE = (_queue_startable, _queue_running, _queue_oldest)
_processors_seen: set[str] = set()
_database_lost = Counter(
    "gristmill_database_unavailable", "Requests refused because Postgres was away", registry=REGISTRY
)


def request_answered(method: str, route: str, status: int, seconds: float) -> None:
    key = (method, route, status)
    found = _answered.get(key)
    if found is None:
        found = _answered[key] = (
            _requests.labels(method, route, str(status)),
            _request_seconds.labels(route),
        )
    counter, histogram = found
    counter.inc()
    histogram.observe(seconds)


_answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}


def follower_came(kind: str) -> None:
    """`kind` is sse or websocket."""
    _followers.labels(kind).inc()


def follower_gone(kind: str, reason: str) -> None:
    """`reason` is a word (api/following.py)."""
    _followers.labels(kind).dec()
    _followers_gone.labels(kind, reason).inc()


def database_unavailable() -> None:
    _database_lost.inc()


def batch_created(processor: str, items: int) -> None:
    _batches_created.labels(processor).inc()
    _items_created.labels(processor).inc(items)


def items_ended(processor: str, status: str, code: int | None = None, count: int = 1) -> None:
    """`code` is one of 400, 408, 499, 500 for failed items."""
    _items_ended.labels(processor, status, "" if code is None else str(code)).inc(count)


def items_requeued(processor: str, reason: str, count: int = 1) -> None:
    """`reason` is a word: retry, waiting, released."""
    _items_requeued.labels(processor, reason).inc(count)


def items_in_flight(count: int) -> None:
    _items_in_flight.set(count)


def leases_lost(count: int = 1) -> None:
    _spans_reclaimed.inc(count)


def flushed(seconds: float) -> None:
    _flush_seconds.observe(seconds)


def claimed(seconds: float) -> None:
    _claim_seconds.observe(seconds)


def upstream_called(status: str, seconds: float) -> None:
    """`status` is the HTTP status, or the kind of failure when there was none."""
    found = _called.get(status)  # to look a label up costs more than to observe
    if found is None:
        found = _called[status] = _upstream_seconds.labels(status)
    found.observe(seconds)


_called: dict[str, Histogram] = {}


def circuit_changed(kind: str, change: str) -> None:
    """`change` is opened (by a storm), throttled (it asked for it), probed, or closed."""
    _circuit_changes.labels(kind, change).inc()


def circuits(kind: str, open_ones: int, reduced: int, least_limit: int) -> None:
    _circuits_open.labels(kind).set(open_ones)
    _limit_cuts.labels(kind).set(reduced)
    _limit_least.labels(kind).set(least_limit)


def permits(kind: str, *, granted: int, used: int, waiting: int) -> None:
    for state, count in (("granted", granted), ("used", used), ("waiting", waiting)):
        _permits.labels(kind, state).set(count)


def queue(of_processors: Mapping[str, tuple[float, float, float]]) -> None:
    """Startable, running, and the seconds of the oldest, by processor. Who had work once is told with 0 later on: an
    autoscaler takes what is missing for not known."""
    _processors_seen.update(of_processors)
    for processor in _processors_seen:
        for gauge, figure in zip(_QUEUE, of_processors.get(processor, (0, 0, 0)), strict=True):
            gauge.labels(processor).set(figure)


def queue_unknown() -> None:
    for gauge in _QUEUE:
        gauge.clear()


def upstream_tokens(prompt: int, completion: int) -> None:
    _prompt_tokens.inc(prompt)
    _completion_tokens.inc(completion)


_prompt_tokens, _completion_tokens = (_upstream_tokens.labels(kind) for kind in ("prompt", "completion"))


def webhook_attempted(outcome: str) -> None:
    """`outcome` is delivered, retry or dead."""
    _deliveries.labels(outcome).inc()


def loop_stepped(loop: str) -> None:
    _loop_step.labels(loop).set_to_current_time()


def loop_failed(loop: str) -> None:
    _loop_errors.labels(loop).inc()


def render() -> tuple[bytes, str]:
    """The text for a scrape, and its media type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
