"""What the fleet has to do during a run, and the eyes on it: batches posted over HTTP, watched while they run."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import orjson

from fakes.receiver import Receiver
from stranger import TERMINAL, adds_up
from torture.checker import Evidence, Told, custom_id
from torture.fleet import Fleet
from torture.ledger import Item, Ledger

BATCHES = "/api/v1/batches"
PATIENCE_SECONDS = 240.0  # a delivery that was cut off is sent again after 35 s; the machine may be busy


@dataclass
class Answers:
    """What the APIs said to a load: how often each status, and how long the longest took, in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0  # connections that ended without an answer
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def note(self, answer: httpx2.Response, seconds: float) -> None:
        self.statuses[answer.status_code] += 1
        self.slowest = max(self.slowest, seconds)
        if answer.status_code == 503 and "retry-after" not in answer.headers:
            self.wrong.append("a 503 without Retry-After")
        if answer.status_code == 500:
            self.wrong.append(f"a 500: {answer.text[:300]}")

    def __str__(self) -> str:
        said = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return f"{said}, {self.unanswered} without an answer, the slowest after {self.slowest:.1f} s"


class Load:
    """Large batches and small ones, posted until the disturbance is over, so that some end all along. A request in ten
    fails, one in ten is tried again, one in ten continues a chat.

    `receiver` None: no webhooks. `patient`: what is answered with 503, or not at all, is asked again, at each API in turn, and
    creates carry an Idempotency-Key. `seconds`: what an item takes, from and to.
    """

    def __init__(
        self,
        fleet: Fleet,
        receiver: Receiver | None,
        folder: Path,
        rng: random.Random,
        *,
        large: int = 200,
        patient: bool = False,
        seconds: tuple[float, float] = (0.1, 0.4),
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.fleet = fleet
        self.receiver = receiver
        self.rng = rng
        self.answers = Answers()
        self._patient = patient
        self._seconds = seconds
        self._patience_seconds = patience_seconds
        self._turn = 0  # of the APIs
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
        async with asyncio.timeout(self._patience_seconds):
            async with asyncio.TaskGroup() as tasks:
                for size in self._sizes:
                    tasks.create_task(self._lane(size))
                tasks.create_task(self._disturbed(disturbance))
            await self.all_announced()

    async def _lane(self, size: int) -> None:
        await self.one_batch(size)
        while not self._over.is_set():
            await self.one_batch(size)

    async def _disturbed(self, disturbance: Callable[[], Awaitable[None]]) -> None:
        await disturbance()
        self._over.set()

    async def one_batch(self, size: int) -> Told:
        """Post it and watch it to its end."""
        told = await self.post([self._input() for _ in range(size)])
        await self.until(lambda: self.look(told))
        return told

    async def post(self, inputs: Sequence[dict[str, Any]]) -> Told:
        """Of at most 1000 requests."""
        requests = [{"custom_id": custom_id(n), "input": one} for n, one in enumerate(inputs)]
        return await self._create(inputs, {"requests": requests})

    async def post_file(self, size: int) -> Told:
        """A batch of any number of plain requests, from a file."""
        inputs = [{"text": f"say {n}", "seconds": self._duration()} for n in range(size)]
        lines = [orjson.dumps({"custom_id": custom_id(n), "input": one}) for n, one in enumerate(inputs)]
        upload = await self._ask("POST", "/api/v1/files?filename=load.jsonl", content=b"\n".join(lines))
        return await self._create(inputs, {"source": {"file_id": upload["data"]["id"]}})

    async def _create(self, inputs: Sequence[dict[str, Any]], more: dict[str, Any]) -> Told:
        hook = f"/hook/{len(self.batches)}-{self.rng.random()}" if self.receiver else None
        told = Told("", inputs, hook)
        self.batches.append(told)
        body = {"processor": "recorded", "config": {"ledger": str(self._path)}, "max_attempts": 9, **more}
        if hook:
            body["webhook"] = {"url": self._url(hook), "secret": "hush"}
        headers = {"idempotency-key": str(UUID(int=self.rng.getrandbits(128)))} if self._patient else {}
        told.id = (await self._ask("POST", BATCHES, json=body, headers=headers))["data"]["id"]
        return told

    def _url(self, hook: str) -> str:
        assert self.receiver is not None
        return f"http://{urlsplit(self.receiver.url).netloc}{hook}"

    def _duration(self) -> float:
        return round(self.rng.uniform(*self._seconds), 3)

    def _input(self) -> dict[str, Any]:
        kind = self.rng.randrange(10)
        given: dict[str, Any] = {"text": f"say {self.rng.random()}", "seconds": self._duration()}
        if kind == 0:
            given["fails"] = True
        elif kind == 1:
            given["retries"] = 1
        elif kind == 2 and self._histories:
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

    async def watch(self, told: Told) -> None:
        """To its end."""
        await self.until(lambda: self.look(told))

    async def watch_once(self, told: Told) -> None:
        told.view = (await self._ask("GET", f"{BATCHES}/{told.id}"))["data"]

    async def look(self, told: Told) -> bool:
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

    def ended(self) -> bool:
        """All that was posted so far."""
        return all(one.id in self._seen and self._seen[one.id]["status"] in TERMINAL for one in self.batches)

    async def note_recorded(self) -> None:
        """Before a strike: what has a result already must not run again."""
        rows = {told.id: await self._rows(told) for told in list(self.batches) if told.id}
        runs = self.ledger.runs
        for batch_id, page in rows.items():
            for ordinal, row in enumerate(page):
                if row["status"] in {"success", "failed"}:
                    self.recorded_before[Item(batch_id, ordinal)] = len(runs[Item(batch_id, ordinal)])

    async def all_announced(self) -> None:
        async def delivered() -> bool:
            lists = [await self._deliveries(told) for told in self.batches]
            return all(one["status"] == "delivered" for deliveries in lists for one in deliveries)

        await self.until(delivered)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(self._patience_seconds):
            while not await condition():
                await asyncio.sleep(0.1)

    # --- what is told in the end ---

    async def evidence(self) -> Evidence:
        for told in self.batches:
            await self.watch_once(told)
            told.rows = await self._rows(told)
            told.deliveries = await self._deliveries(told)
        return Evidence(
            self.batches,
            self.ledger,
            self.receiver.received if self.receiver else (),
            recorded_before=self.recorded_before,
            chats={history_id: await self._said(history_id) for history_id in self._histories},
            noticed=[*self.noticed, *self.answers.wrong],
        )

    async def _rows(self, told: Told) -> list[dict[str, Any]]:
        """Of all pages; their limit does not divide the number of requests."""
        rows: list[dict[str, Any]] = []
        following = f"{BATCHES}/{told.id}/results?limit={97 if len(told.inputs) < 1000 else 997}"
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
        async with asyncio.timeout(self._patience_seconds):
            while (answer := await self._asked(method, path, **more)) is None:
                await asyncio.sleep(0.1)
        return answer.raise_for_status().json()

    async def _asked(self, method: str, path: str, **more: Any) -> httpx2.Response | None:
        """None: to be asked again."""
        self._turn += 1
        client = self.fleet.apis[self._turn % len(self.fleet.apis)].client
        began = time.monotonic()
        try:
            answer = await client.request(method, path, **more)
        except httpx2.TransportError:
            if not self._patient:
                raise
            self.answers.unanswered += 1
            return None
        self.answers.note(answer, time.monotonic() - began)
        in_flight = answer.status_code == 409 and method == "POST"
        return None if self._patient and (answer.status_code == 503 or in_flight) else answer
