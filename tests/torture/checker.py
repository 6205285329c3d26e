"""Is everything as it was promised? Compares what the API answers, what the processor wrote down, what the webhook
receiver got and what the tables say, and answers with what does not fit, in sentences.

It is itself tested: tests/torture/test_checker.py falsifies honest evidence in every way it is to notice.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from fakes.receiver import Received
from torture.ledger import Item, Ledger

UNRECORDED_SECONDS = (
    5.0  # a sender that is killed so soon after its POST may not have written down that it was accepted
)
FORGOTTEN_SECONDS = (
    10.0  # a run that began so soon before Postgres crashed may be in a claim that was not on disk
)
KILLING_SECONDS = 2.0  # from the moment that is noted as that of the crash to the last backend's end


@dataclass
class Told:
    """A batch that was acknowledged: what was posted, and what the API says of it in the end."""

    id: str
    inputs: Sequence[dict[str, Any]]
    hook: str | None = None  # the path of its webhook
    view: dict[str, Any] = field(default_factory=dict)
    rows: Sequence[dict[str, Any]] = ()  # of all pages
    deliveries: Sequence[dict[str, Any]] = ()


@dataclass
class Struck:
    """A worker process that was killed, stopped, or declared dead. `moments` are Unix seconds, of the first two."""

    moments: Sequence[float] = ()
    times: int = 0


@dataclass
class Evidence:
    batches: Sequence[Told]
    ledger: Ledger
    received: Sequence[Received] = ()
    struck: Mapping[int, Struck] = field(default_factory=dict)  # by process
    recorded_before: Mapping[Item, int] = field(default_factory=dict)  # before a strike: its runs until then
    chats: Mapping[int, Sequence[str]] = field(
        default_factory=dict
    )  # by history_id: what the user said, in order
    server_crashes: Sequence[float] = ()  # of Postgres, Unix seconds
    violations: Sequence[object] = ()  # of store/audit.py
    noticed: Sequence[str] = ()  # by who looked on meanwhile

    @property
    def moments(self) -> list[float]:
        return [moment for struck in self.struck.values() for moment in struck.moments]


def findings(evidence: Evidence) -> list[str]:
    """[] is the answer to hope for."""
    found = [f"the audit says: {violation}" for violation in evidence.violations]
    found += evidence.noticed
    for told in evidence.batches:
        found += _about_results(told)
        found += _about_counts(told)
        if told.hook is not None:
            found += _about_webhook(told, evidence)
    found += _about_runs(evidence)
    found += _about_chats(evidence)
    return found


def _about_results(told: Told) -> Iterator[str]:
    ids = [row["custom_id"] for row in told.rows]
    if ids != [custom_id(ordinal) for ordinal in range(len(told.inputs))]:
        yield f"{told.id}: the pages do not hold each request once, in the order of the input"
        return
    for given, row in zip(told.inputs, told.rows, strict=True):
        if _essence(row) != expected(given):
            yield f"{told.id}: {row['custom_id']} ended as {_essence(row)}"


def custom_id(ordinal: int) -> str:
    return f"req-{ordinal}"


def expected(given: dict[str, Any]) -> tuple[Any, ...]:
    """What the processor `recorded` makes of it: status, error code, content, output."""
    if given.get("fails"):
        return ("failed", 500, None, None)
    return ("success", None, given["text"].upper(), given["text"])


def _essence(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["status"], row["error_code"], row["response_content"], row["output"])


def _about_counts(told: Told) -> Iterator[str]:
    counted = Counter(row["status"] for row in told.rows)
    in_pages = (len(told.rows), counted["success"], counted["failed"], 0, 0)
    in_row = _counts(told.view)
    if in_row != in_pages:
        yield f"{told.id}: the batch says {in_row}, its pages {in_pages}"
    if told.view["status"] != "completed":
        yield f"{told.id}: it is {told.view['status']}"


def _counts(view: dict[str, Any]) -> tuple[int, ...]:
    names = ("total", "completed", "failed", "pending", "processing")
    return tuple(view[f"{name}_requests"] for name in names)


# --- runs ---------------------------------------------------------------------------------------------------------


def _about_runs(evidence: Evidence) -> Iterator[str]:
    runs = evidence.ledger.runs
    submitted = {
        Item(told.id, ordinal): given
        for told in evidence.batches
        for ordinal, given in enumerate(told.inputs)
    }
    yield from (f"{item}: ran without having been submitted" for item in runs.keys() - submitted.keys())
    for item, given in submitted.items():
        pids = runs.get(item, [])
        most = 1 + given.get("retries", 0) + _hits(evidence, pids) + _claims_lost(evidence, item)
        if not 1 <= len(pids) <= most:
            begun = ", ".join(f"{at:.1f}" for at in evidence.ledger.begun[item])
            yield f"{item}: ran {len(pids)} times, at most {most} were due; begun at {begun}"
    for item, count in evidence.recorded_before.items():
        if len(runs.get(item, [])) != count:
            yield f"{item}: ran again after its result had been read"


def _hits(evidence: Evidence, pids: Sequence[int]) -> int:
    """How often a process was struck that had begun the item."""
    return sum(evidence.struck[pid].times for pid in set(pids) if pid in evidence.struck)


def _claims_lost(evidence: Evidence, item: Item) -> int:
    """How often the server crashed soon after a run had begun: a claim does not wait for the disk, and may be forgotten."""
    return sum(
        any(-KILLING_SECONDS <= crash - at <= FORGOTTEN_SECONDS for at in evidence.ledger.begun[item])
        for crash in evidence.server_crashes
    )


# --- webhooks -----------------------------------------------------------------------------------------------------


def _about_webhook(told: Told, evidence: Evidence) -> Iterator[str]:
    posts = [post for post in evidence.received if post.path == told.hook]
    ids = {post.headers["webhook-id"] for post in posts}
    if len(ids) != 1:
        yield f"{told.id}: {len(ids)} event ids were sent for one end"
        return
    if len({post.body for post in posts}) != 1:
        yield f"{told.id}: one event was sent with different bytes"
    if _announced(posts[0]) != _due(told):
        yield f"{told.id}: the webhook says {_announced(posts[0])}, the batch {_due(told)}"
    if [(one["event_id"], one["status"]) for one in told.deliveries] != [(ids.pop(), "delivered")]:
        yield f"{told.id}: its deliveries are {told.deliveries}"
    else:
        yield from _about_sends(told, posts, evidence)


def _about_sends(told: Told, posts: Sequence[Received], evidence: Evidence) -> Iterator[str]:
    """An attempt without a status is one that got no answer in time, or in whose middle its sender was stopped."""
    codes = [one["status_code"] for one in told.deliveries[0]["log"]]
    if [code for code in codes if code is not None] != [200]:
        yield f"{told.id}: its webhook was answered with {codes}"
    cut_off = sum(_sender_struck(post, evidence) for post in posts)
    if len(posts) > len(codes) + cut_off:
        yield f"{told.id}: sent {len(posts)} times, of which {len(codes)} are written down; {cut_off} were cut off"


def _sender_struck(post: Received, evidence: Evidence) -> bool:
    return any(0 <= moment - post.at <= UNRECORDED_SECONDS for moment in evidence.moments)


def _announced(post: Received) -> tuple[Any, ...]:
    body = orjson.loads(post.body)
    return (body["event"], *_of_event(body["data"]))


def _due(told: Told) -> tuple[Any, ...]:
    return (f"batch.{told.view['status']}", *_of_event(told.view))


def _of_event(shown: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        shown[name] for name in ("id", "status", "total_requests", "completed_requests", "failed_requests")
    )


# --- chats --------------------------------------------------------------------------------------------------------


def _about_chats(evidence: Evidence) -> Iterator[str]:
    for history_id, said in evidence.chats.items():
        due = Counter(
            given["text"]
            for told in evidence.batches
            for given in told.inputs
            if given.get("history_id") == history_id
        )
        if Counter(said) != due:
            wrong = (Counter(said) - due) + (due - Counter(said))
            yield f"chat {history_id}: {sorted(wrong)} are in it too often or not at all"
