"""What the fleet has to do during a run, and the eyes on it: batches posted over HTTP, watched while they run."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fakes.receiver import Receiver
from stranger import TERMINAL, adds_up
from torture.checker import Evidence, Told, custom_id
from torture.fleet import Fleet
from torture.ledger import Item, Ledger

BATCHES = "/api/v1/batches"
PATIENCE_SECONDS = 240.0  # a delivery that was cut off is sent again after 35 s; the machine may be busy


class Load:
    """Large batches and small ones, posted until the disturbance is over, so that some end all along. A request in ten
    fails, one in ten is tried again, one in ten continues a chat."""

    def __init__(
        self, fleet: Fleet, receiver: Receiver, folder: Path, rng: random.Random, *, large: int = 200
    ) -> None:
        self.fleet = fleet
        self.receiver = receiver
        self.rng = rng
        self.batches: list[Told] = []
        self.noticed: list[str] = []
        self.recorded_before: dict[Item, int] = {}
        self._path = folder / "ledger"
        self._ledger = Ledger(self._path)
        self._sizes = (large, 15, 15, 15)
        self._over = asyncio.Event()
        self._histories: list[int] = []
        self._seen: dict[str, dict[str, Any]] = {}

    @property
    def ledger(self) -> Ledger:
        return self._ledger.catch_up()

    def posted(self) -> int:
        return sum(len(told.inputs) for told in self.batches)

    # --- at work ---

    async def run(self, disturbance: Callable[[], Awaitable[None]]) -> None:
        """All batches, from the first POST to the last end and its webhook, while the disturbance happens."""
        self._histories = [await self._begin_chat() for _ in range(4)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with asyncio.TaskGroup() as tasks:
                for size in self._sizes:
                    tasks.create_task(self._lane(size))
                tasks.create_task(self._disturbed(disturbance))
            await self._all_announced()

    async def _lane(self, size: int) -> None:
        await self.one_batch(size)
        while not self._over.is_set():
            await self.one_batch(size)

    async def _disturbed(self, disturbance: Callable[[], Awaitable[None]]) -> None:
        await disturbance()
        self._over.set()

    async def one_batch(self, size: int) -> Told:
        """Post it and watch it to its end."""
        inputs = [self._input() for _ in range(size)]
        hook = f"/hook/{len(self.batches)}-{self.rng.random()}"
        told = Told("", inputs, hook)
        self.batches.append(told)
        body = {
            "processor": "recorded",
            "config": {"ledger": str(self._path)},
            "requests": [{"custom_id": custom_id(n), "input": one} for n, one in enumerate(inputs)],
            "webhook": {"url": self._url(hook), "secret": "hush"},
            "max_attempts": 9,
        }
        told.id = (await self._ask("POST", BATCHES, json=body))["data"]["id"]
        await self.until(lambda: self._watched(told))
        return told

    def _url(self, hook: str) -> str:
        return f"http://{urlsplit(self.receiver.url).netloc}{hook}"

    def _input(self) -> dict[str, Any]:
        kind = self.rng.randrange(10)
        given: dict[str, Any] = {"text": f"say {self.rng.random()}", "seconds": self.rng.uniform(0.1, 0.4)}
        if kind == 0:
            given["fails"] = True
        elif kind == 1:
            given["retries"] = 1
        elif kind == 2:
            given["history_id"] = self.rng.choice(self._histories)
        return given

    async def _begin_chat(self) -> int:
        body = {
            "processor": "scripted",
            "requests": [{"custom_id": "first", "input": {"chat": True, "answer": "hello"}}],
        }
        batch_id = (await self._ask("POST", BATCHES, json=body))["data"]["id"]

        async def ended() -> bool:
            return (await self._ask("GET", f"{BATCHES}/{batch_id}"))["data"]["status"] in TERMINAL

        await self.until(ended)
        (row,) = (await self._ask("GET", f"{BATCHES}/{batch_id}/results"))["data"]
        history_id: int = row["history_id"]
        return history_id

    # --- looking on ---

    async def _watched(self, told: Told) -> bool:
        """Look once; note what must not be seen. True: it has ended."""
        view = (await self._ask("GET", f"{BATCHES}/{told.id}"))["data"]
        before = self._seen.get(told.id, view)
        if not adds_up(view):
            self.noticed.append(f"{told.id}: its counts did not add up: {view}")
        for name in ("completed_requests", "failed_requests"):
            if view[name] < before[name]:
                self.noticed.append(f"{told.id}: {name} went from {before[name]} back to {view[name]}")
        if before["status"] in TERMINAL and view["status"] != before["status"]:
            self.noticed.append(f"{told.id}: it went from {before['status']} to {view['status']}")
        self._seen[told.id] = view
        return view["status"] in TERMINAL

    def recorded(self) -> int:
        """Results, as far as has been seen."""
        return sum(view["completed_requests"] + view["failed_requests"] for view in self._seen.values())

    async def note_recorded(self) -> None:
        """Before a strike: what has a result already must not run again."""
        rows = {told.id: await self._rows(told) for told in list(self.batches) if told.id}
        runs = self.ledger.runs
        for batch_id, page in rows.items():
            for ordinal, row in enumerate(page):
                if row["status"] in {"success", "failed"}:
                    self.recorded_before[Item(batch_id, ordinal)] = len(runs[Item(batch_id, ordinal)])

    async def _all_announced(self) -> None:
        async def delivered() -> bool:
            lists = [await self._deliveries(told) for told in self.batches]
            return all(one["status"] == "delivered" for deliveries in lists for one in deliveries)

        await self.until(delivered)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(0.1)

    # --- what is told in the end ---

    async def evidence(self) -> Evidence:
        for told in self.batches:
            told.view = (await self._ask("GET", f"{BATCHES}/{told.id}"))["data"]
            told.rows = await self._rows(told)
            told.deliveries = await self._deliveries(told)
        return Evidence(
            self.batches,
            self.ledger,
            self.receiver.received,
            recorded_before=self.recorded_before,
            chats={history_id: await self._said(history_id) for history_id in self._histories},
            noticed=self.noticed,
        )

    async def _rows(self, told: Told) -> list[dict[str, Any]]:
        """Of all pages; their limit does not divide the number of requests."""
        rows: list[dict[str, Any]] = []
        following = f"{BATCHES}/{told.id}/results?limit=97"
        while following:
            answer = await self._ask("GET", following)
            rows += answer["data"]
            following = answer["pagination"]["next_page"]
        return rows

    async def _deliveries(self, told: Told) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._ask("GET", f"{BATCHES}/{told.id}/deliveries"))["data"]
        return found

    async def _said(self, history_id: int) -> list[str]:
        """By the user, without the first turn, in which the chat began."""
        path = f"/api/v1/chats/{history_id}/messages?limit=1000"
        messages = (await self._ask("GET", path))["data"]
        return [one["content"] for one in messages if one["role"] == "user"][1:]

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = await self.fleet.client.request(method, path, **more)
        return answer.raise_for_status().json()
