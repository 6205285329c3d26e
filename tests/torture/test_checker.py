"""The checker sees each kind of harm: honest evidence passes, and falsified in one place it does not."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import orjson
import pytest

from fakes.receiver import Received
from torture.checker import Evidence, Struck, Told, custom_id, expected, findings
from torture.ledger import Item, Ledger

INPUTS = [
    {"text": "plain"},
    {"text": "twice", "retries": 1},
    {"text": "bad", "fails": True},
    {"text": "said", "history_id": 7},
]
ALIVE, KILLED = 11, 12
KILLED_AT = 1000.0


def row(ordinal: int, given: dict[str, Any]) -> dict[str, Any]:
    status, code, content, output = expected(given)
    return {
        "custom_id": custom_id(ordinal),
        "status": status,
        "error_code": code,
        "response_content": content,
        "output": output,
    }


def honest() -> Evidence:
    """One batch: its first request ran in a process that was killed, and again; its webhook was sent once."""
    view = {"id": "b", "status": "completed", "pending_requests": 0, "processing_requests": 0}
    view |= {"total_requests": 4, "completed_requests": 3, "failed_requests": 1}
    ledger = Ledger()
    runs = [(KILLED, 0, 1), (ALIVE, 0, 2), (ALIVE, 1, 1), (ALIVE, 1, 2), (ALIVE, 2, 1), (ALIVE, 3, 1)]
    for pid, ordinal, attempt in runs:
        ledger.add(f"begin {pid} b {ordinal} {attempt} 1.0")
    delivery = {"event_id": "evt_1", "status": "delivered", "log": [{"status_code": 200}]}
    told = Told("b", INPUTS, "/hook", view, [row(n, one) for n, one in enumerate(INPUTS)], [delivery])
    body = orjson.dumps({"event": "batch.completed", "data": view})
    post = Received("POST", "/hook", {"webhook-id": "evt_1"}, body, KILLED_AT + 100)
    return Evidence(
        [told], ledger, [post], {KILLED: Struck([KILLED_AT], 1)}, {Item("b", 2): 1}, {7: ["said"]}
    )


def again(evidence: Evidence, **more: Any) -> None:
    """The webhook arrived once more."""
    evidence.received = [*evidence.received, replace(evidence.received[0], **more)]


HARM: dict[str, Callable[[Evidence], object]] = {
    "a result is lost": lambda e: e.batches[0].rows.pop(),
    "a result is there twice": lambda e: e.batches[0].rows.append(e.batches[0].rows[0]),
    "two results have changed places": lambda e: e.batches[0].rows.reverse(),
    "a result has not come": lambda e: e.batches[0].rows[0].update(status="pending"),
    "a result is another's": lambda e: e.batches[0].rows[0].update(output="other"),
    "a result is counted twice": lambda e: e.batches[0].view.update(completed_requests=4),
    "something is still counted as running": lambda e: e.batches[0].view.update(processing_requests=1),
    "the batch has not ended": lambda e: e.batches[0].view.update(status="in_progress"),
    "a request never ran": lambda e: e.ledger.runs.pop(Item("b", 3)),
    "a request ran twice without a reason": lambda e: e.ledger.add(f"begin {ALIVE} b 3 1 1.0"),
    "a request ran more often than processes were killed": lambda e: e.ledger.add(f"begin {ALIVE} b 0 3 1.0"),
    "what had its result ran again": lambda e: e.recorded_before.update({Item("b", 3): 0}),
    "something ran that nobody had submitted": lambda e: e.ledger.add(f"begin {ALIVE} b 4 1 1.0"),
    "no webhook came": lambda e: e.received.clear(),
    "two events were sent for one end": lambda e: again(e, headers={"webhook-id": "evt_2"}),
    "an event was sent with other bytes": lambda e: again(e, body=b"{}", at=KILLED_AT - 1),
    "an event was sent twice without a reason": again,
    "the killed sender had long been done": lambda e: again(e, at=KILLED_AT - 60),
    "the webhook told other counts": lambda e: e.batches[0].view.update(total_requests=5),
    "a delivery is pending": lambda e: e.batches[0].deliveries[0].update(status="pending"),
    "a delivery is lost": lambda e: e.batches[0].deliveries.clear(),
    "a delivery was accepted twice": lambda e: e.batches[0].deliveries[0]["log"].append({"status_code": 200}),
    "a turn is in its chat twice": lambda e: e.chats[7].append("said"),
    "a turn is lost": lambda e: e.chats[7].clear(),
    "the audit found something": lambda e: e.violations.append("counters"),
    "somebody saw something": lambda e: e.noticed.append("counts that did not add up"),
}


def test_honest_evidence_passes() -> None:
    assert findings(honest()) == []


def test_a_sender_that_was_killed_may_have_sent_what_it_did_not_write_down() -> None:
    evidence = honest()
    again(evidence, at=KILLED_AT - 1)
    assert findings(evidence) == []


def test_an_item_may_run_again_if_the_server_crashed_soon_after_its_claim_and_only_then() -> None:
    evidence = honest()
    evidence.ledger.add(f"begin {ALIVE} b 3 1 5000.0")
    evidence.server_crashes = [5001.0]
    assert findings(evidence) == []
    evidence.server_crashes = [6000.0]
    assert findings(evidence) != []


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_seen(harm: str) -> None:
    evidence = deepcopy(honest())
    evidence.violations, evidence.noticed = [], []
    HARM[harm](evidence)
    assert findings(evidence) != []
