"""A pause or a cancel at any moment is exact: nothing starts after its answer, the batch ends once, and says so once."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from fakes.receiver import Receiver
from gristmill.db import Database
from gristmill.store.audit import audit
from torture.checker import custom_id
from torture.fleet import Fleet
from torture.ledger import Item, Ledger
from torture.load import BATCHES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ITEMS = 60
LANES = 4


@dataclass
class Rounds:
    """What came of them. `lags`: seconds from an answer to the last begin of an item that was in a worker's hands by then."""

    fleet: Fleet
    receiver: Receiver
    ledger: Ledger
    path: Path
    rng: random.Random
    told: dict[str, str] = field(default_factory=dict)  # hooks, and with what status their batches ended
    lags: list[float] = field(default_factory=list)
    acts: dict[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    async def one(self) -> None:
        hook = f"/hook/{self.rng.random()}"
        batch = await self._post(hook)
        await self._until(
            lambda view: self._begun(batch) >= moment, batch, moment := self.rng.randrange(ITEMS)
        )
        act = self.rng.choice(["cancel", "pause"])
        answer = await self._act(batch, act)
        if answer is None:
            act = "too late"
        else:
            await self._check(batch, act, answer, time.time())
        if act == "pause":
            await self._act(batch, "resume")
        view = await self._until(lambda view: view["status"] in {"completed", "cancelled"}, batch)
        self._expect(view["status"] == ("cancelled" if act == "cancel" else "completed"), f"{act}: {view}")
        self.told[hook] = view["status"]
        self.acts[act] = self.acts.get(act, 0) + 1

    async def _check(self, batch: str, act: str, answer: dict[str, Any], at: float) -> None:
        """What has been claimed by the answer finishes, and nothing else begins."""
        started = answer["completed_requests"] + answer["processing_requests"]
        settled = await self._until(lambda view: view["processing_requests"] == 0 and _still(view), batch)
        left = settled["pending_requests"] if act == "pause" else settled["failed_requests"]
        self._expect(settled["completed_requests"] == started, f"{act}: {answer}, then {settled}")
        self._expect(left == answer["pending_requests"], f"{act}: {answer}, then {settled}")
        self._expect(self._begun(batch) == started, f"{act}: {self._begun(batch)} began, {answer}")
        begins = [self.ledger.begun[Item(batch, n)] for n in range(ITEMS)]
        self.lags.append(max(0.0, *(begun - at for one in begins for begun in one)))

    def _begun(self, batch: str) -> int:
        runs = self.ledger.catch_up().runs
        return sum(Item(batch, n) in runs for n in range(ITEMS))

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.found.append(otherwise)

    async def _post(self, hook: str) -> str:
        url = self.receiver.url.removesuffix("/hook") + hook
        inputs = [{"text": str(n), "seconds": self.rng.uniform(0.01, 0.1)} for n in range(ITEMS)]
        body = {
            "processor": "recorded",
            "config": {"ledger": str(self.path)},
            "requests": [{"custom_id": custom_id(n), "input": one} for n, one in enumerate(inputs)],
            "webhook": {"url": url, "events": ["completed", "failed", "cancelled"]},
        }
        answer = await self.fleet.client.post(BATCHES, json=body)
        batch_id: str = answer.raise_for_status().json()["data"]["id"]
        return batch_id

    async def _act(self, batch: str, act: str) -> dict[str, Any] | None:
        """None: it had ended before."""
        answer = await self.fleet.client.post(f"{BATCHES}/{batch}/{act}")
        if answer.status_code == 409:
            return None
        data: dict[str, Any] = answer.raise_for_status().json()["data"]
        return data

    async def _until(self, condition: Any, batch: str, *_: object) -> dict[str, Any]:
        async with asyncio.timeout(120):
            while True:
                answer = await self.fleet.client.get(f"{BATCHES}/{batch}")
                view: dict[str, Any] = answer.raise_for_status().json()["data"]
                if condition(view) or view["status"] in {"completed", "cancelled"}:
                    return view
                await asyncio.sleep(0.02)


def _still(view: dict[str, Any]) -> bool:
    return view["status"] != "cancelling"


async def test_pause_and_cancel_are_exact_at_any_moment(
    own_database_url: str, folder: Path, receiver: Receiver, at_length: bool, scale: float
) -> None:
    rounds = int(200 * scale) if at_length else 8
    async with Fleet(own_database_url, folder, workers=4 if at_length else 2, lease_seconds=30) as fleet:
        path = folder / "ledger"
        played = Rounds(fleet, receiver, Ledger(path), path, random.Random(14))
        left = iter(range(rounds))

        async def lane() -> None:
            for _ in left:
                await played.one()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(LANES):
                tasks.create_task(lane())
        for hook in played.told:
            await receiver.until(1, path=hook, timeout_seconds=60)
    print(
        f"{rounds} rounds: {played.acts}; at most {max(played.lags):.3f} s after an answer a claimed item began"
    )
    assert played.found == []
    assert all(len(runs) == 1 for runs in played.ledger.runs.values())
    for hook, status in played.told.items():
        events = {
            (post.headers["webhook-id"], orjson.loads(post.body)["event"]) for post in receiver.of(hook)
        }
        assert [event for _, event in events] == [f"batch.{status}"]
    database = await Database(own_database_url).open()
    async with database.connection() as connection:
        assert await audit(connection) == []
    await database.close()
