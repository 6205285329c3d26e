"""What a call to a model costs, and how many of the slots are busy: `.venv/bin/python -m benchmarks.upstream`.

A real endpoint in a process of its own, on loopback: it answers `/v1/chat/completions` after half a second, notes how many
calls are at it in each moment, and answers 429 to what comes beyond its limit. One `gristmill worker` with as many calls in
flight as the endpoint takes works a batch off. CPU is that of the worker and of Postgres, claims, calls and records included;
the server is idle. Slots are busy while a call is at the endpoint: so the share is the integral of its calls over the time
between the moment at which all slots were first taken and the last at which as many items as slots were left.

`--workers 2`: so many share the slots, which are a limit of the service (docs/scaling.md); each could take all of them.
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import machine, meter, report
from benchmarks.meter import Meter
from benchmarks.postgres import Postgres, running
from benchmarks.service import Service, serving

END_SECONDS = 300.0
KNOWN_SECONDS = 5.0  # by then all workers know a limit (docs/scaling.md)
PER_BATCH = 1000
_PROMPT = "Summarise in one sentence what a grist mill does, number %d, and say nothing else about it please."
_ANSWER = "A grist mill grinds grain into flour between two stones that are driven by water, wind, animals or engines."


# --- the endpoint: a process of its own, so that its CPU is nobody's ------------------------------------------------


class _Endpoint:
    """Counts calls from the end of their request to the answer."""

    def __init__(self, latency_seconds: float, limit: int) -> None:
        self.latency, self.limit = latency_seconds, limit
        self.in_flight = self.most = self.answered = self.refused = 0
        self.changes: list[tuple[float, int]] = []  # Unix seconds, calls at it from then on

    def begin(self) -> bool:
        if self.in_flight >= self.limit:
            self.refused += 1
            return False
        self._change(1)
        self.most = max(self.most, self.in_flight)
        return True

    def end(self) -> None:
        self.answered += 1
        self._change(-1)

    def _change(self, by: int) -> None:
        self.in_flight += by
        self.changes.append((time.time(), self.in_flight))

    def seen(self) -> dict[str, Any]:
        return {
            "most": self.most,
            "answered": self.answered,
            "refused": self.refused,
            "changes": self.changes,
        }


class _Connection(asyncio.Protocol):
    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint, self._received = endpoint, b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        if len(body) >= length:
            self._received = body[length:]
            self._asked(head.split(b" ", 2)[1])

    def _asked(self, path: bytes) -> None:
        if path == b"/seen":
            self._answer(b"200 OK", self._endpoint.seen())
        elif self._endpoint.begin():
            asyncio.get_running_loop().call_later(self._endpoint.latency, self._ended)
        else:
            self._answer(b"429 Too Many Requests", {"error": {"message": "too many at once"}})

    def _ended(self) -> None:
        self._endpoint.end()
        self._answer(b"200 OK", _COMPLETION)

    def _answer(self, status: bytes, body: dict[str, Any]) -> None:
        if not self._transport.is_closing():
            text = json.dumps(body).encode()
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
                status,
                len(text),
            )
            self._transport.write(head + text)


_COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1763807100,
    "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": _ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 24, "completion_tokens": 22, "total_tokens": 46},
}


async def _serve(latency_seconds: float, limit: int) -> None:
    endpoint, loop, stop = _Endpoint(latency_seconds, limit), asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: _Connection(endpoint), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


@contextmanager
def _endpoint(latency_seconds: float, limit: int) -> Iterator[tuple[str, meter.CpuSeconds]]:
    command = [sys.executable, "-m", "benchmarks.upstream", "--endpoint", str(latency_seconds), str(limit)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        yield (
            f"http://127.0.0.1:{int(process.stdout.readline())}",
            meter.of_process(process.pid),
        )
    finally:
        process.terminate()
        process.wait()


# --- the measurement ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """CPU in microseconds for each call; `busy`: share of the slots with a call at the endpoint, in the steady state."""

    per_second: float
    worker_us: float
    postgres_us: float
    busy: float
    most: int
    refused: int
    other: float


def main() -> None:
    given = _options()
    if given.endpoint:
        asyncio.run(_serve(float(given.endpoint[0]), int(given.endpoint[1])))
        return
    with running() as postgres:
        print(*machine.described(postgres), sep="\n", flush=True)
        rounds = []
        for _ in range(given.rounds):
            rounds.append(_round(postgres, given))
            print(f"  {rounds[-1]}", flush=True)
    print("", *_table(rounds, given), sep="\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream", description=__doc__)
    parser.add_argument("--calls", type=int, default=24_000)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds until the endpoint answers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="more than one share the slots")
    parser.add_argument("--processor", choices=("completion", "agent_message"), default="completion")
    parser.add_argument(
        "--endpoint", nargs=2, metavar=("SECONDS", "LIMIT"), help="only be the endpoint; used by this program"
    )
    return parser.parse_args()


def _round(postgres: Postgres, given: argparse.Namespace) -> Round:
    with _endpoint(given.latency, given.slots) as (url, endpoint_cpu):
        # With those that wait for a permit, where there is a limit.
        in_hand = given.slots if given.workers == 1 else given.slots * 5 // 4
        settings = {
            "GRISTMILL_LLM_BASE_URL": f"{url}/v1",
            "GRISTMILL_LLM_MODEL": "bench",
            "GRISTMILL_CONCURRENCY": str(in_hand),
            "GRISTMILL_LLM_CONCURRENCY": str(in_hand),
        }
        with serving(
            postgres, "bench_upstream", lone_worker=True, workers=given.workers, settings=settings
        ) as service:
            if given.workers > 1:
                service.command("limits", "set", "upstream", "model", "--in-flight", str(given.slots))
                time.sleep(KNOWN_SECONDS)
            for worker in service.workers:
                worker.hold()
            ids = _create(service, given)
            with Meter(service.cpu | {"endpoint": endpoint_cpu}) as measured:
                for worker in service.workers:
                    worker.go()
                service.client.until_ended(len(ids), timeout_seconds=END_SECONDS)
            _check(service, ids, given.calls)
        seen = _seen(url)
    busy, seconds = _steady(seen["changes"], given)
    return Round(
        seen["answered"] / seconds,
        measured.microseconds("worker", given.calls),
        measured.microseconds("postgres", given.calls),
        busy,
        seen["most"],
        seen["refused"],
        measured.other,
    )


def _create(service: Service, given: argparse.Namespace) -> list[str]:
    shared: dict[str, Any] = {"processor": "completion"}
    if given.processor == "agent_message":
        shared = {"agent_id": _agent(service)}
    ids = []
    for first in range(0, given.calls, PER_BATCH):
        numbers = range(first, min(first + PER_BATCH, given.calls))
        requests = [{"custom_id": f"call-{n:07d}", **_request(n, given.processor)} for n in numbers]
        ids.append(service.client.create(json.dumps(shared | {"requests": requests}).encode()))
    return ids


def _request(number: int, processor: str) -> dict[str, Any]:
    if processor == "agent_message":
        return {"message": _PROMPT % number}
    return {"input": {"messages": [{"role": "user", "content": _PROMPT % number}], "max_tokens": 64}}


def _agent(service: Service) -> str:
    body = json.dumps({"name": "bench", "instructions": "You are brief."}).encode()
    agent_id = str(json.loads(service.client.ask("POST", "/api/v1/agents", body))["data"]["id"])
    service.client.ask("POST", f"/api/v1/agents/{agent_id}/publish")
    return agent_id


def _check(service: Service, ids: list[str], calls: int) -> None:
    """Every call has its answer, once."""
    seen = set()
    for line in (line for one in ids for line in service.client.lines(one)):
        result = json.loads(line)
        assert result["status"] == "success", result
        assert result["response_content"] == _ANSWER, result
        seen.add(result["custom_id"])
    assert len(seen) == calls, f"{len(seen)} of {calls}"


def _seen(url: str) -> dict[str, Any]:
    import urllib.request

    with urllib.request.urlopen(f"{url}/seen", timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def _steady(changes: list[tuple[float, int]], given: argparse.Namespace) -> tuple[float, float]:
    """Share of the slots in use, from the first moment with all of them taken (a latency after the begin, at the latest) to
    the last at which as many calls as slots had still to begin; and the seconds from the first call to the last answer."""
    first = changes[0][0] + given.latency
    first_full = next((at for at, now in changes if now >= given.slots), first)
    begun, ends, before = 0, changes[-1][0], 0
    for at, now in changes:
        begun += now > before
        before = now
        if begun >= given.calls - given.slots:
            ends = at
            break
    begins = min(first_full, first)
    area, level, last = 0.0, 0, begins
    for at, now in changes:
        if at > ends:
            break
        if at > begins:
            area += level * (at - last)
            last = at
        level = now
    area += level * (ends - last)
    return area / (given.slots * (ends - begins)), changes[-1][0] - changes[0][0]


def _table(rounds: list[Round], given: argparse.Namespace) -> list[str]:
    def spread(name: str, digits: int = 0) -> str:
        return report.spread([getattr(one, name) for one in rounds], digits)

    cpu = statistics.median(one.worker_us + one.postgres_us for one in rounds)
    return [
        f"{given.calls:,} calls of {given.latency:g} s, {given.slots:,} slots, workers: {given.workers}, {given.processor}; "
        "medians [least - most].",
        "",
        "| calls/s | slots busy | CPU µs a call: worker | Postgres | together | at the endpoint | refused | strangers |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {spread('per_second')} | {statistics.median(one.busy for one in rounds):.1%} | {spread('worker_us')} | "
        f"{spread('postgres_us')} | {cpu:.0f} | {max(one.most for one in rounds)} | "
        f"{max(one.refused for one in rounds)} | {spread('other', 1)} |",
    ]


if __name__ == "__main__":
    main()
