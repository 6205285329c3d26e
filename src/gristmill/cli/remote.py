"""A client of a running server, over HTTP and with a key, as anybody else's would be."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gristmill.cli.refusal import Refusal
from gristmill.settings import Settings

_TIMEOUT_SECONDS = 60.0
_PAGE = 1000
_WAIT_SECONDS = 0.3
_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # waits between the sends of one create
_MAX_RETRY_SECONDS = 30.0  # no Retry-After is honoured for longer
_LOST = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError)
_MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
TERMINAL = frozenset({"completed", "failed", "cancelled"})


class Client:
    def __init__(self, settings: Settings, url: str | None = None) -> None:
        base = url or settings.public_url or f"http://{settings.host}:{settings.port}"
        if settings.api_key is None:
            raise Refusal("set GRISTMILL_API_KEY to a key of the server")
        headers = {"x-api-key": settings.api_key.get_secret_value()}
        self._http = httpx2.Client(base_url=base, headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False)
        self._base = base

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The answer's envelope. Raises Refusal for anything but a success."""
        with self._reached():
            return self._envelope(self._http.request(method, f"/api/v1{path}", **options))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Refusal(f"{self._base} cannot be reached: {error}") from None

    def _envelope(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            envelope: dict[str, Any] = response.json()
        except ValueError:
            raise Refusal(
                f"{self._base} does not answer as Gristmill would (status {response.status_code})"
            ) from None
        if not response.is_success:
            raise Refusal(_told(envelope, response.status_code))
        return envelope

    def create(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer's envelope. Sent again under one Idempotency-Key while no answer says what came of it: one is made."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{uuid4()}"'}
        for seconds in _RETRY_SECONDS:
            with self._reached(), suppress(*_LOST):
                answer = self._http.request("POST", f"/api/v1{path}", content=body, headers=headers)
                if not _undecided(answer):
                    return self._envelope(answer)
                seconds = _retry_after(answer, seconds)
            time.sleep(seconds)
        return self.call("POST", path, content=body, headers=headers)

    def batch(self, batch_id: str) -> dict[str, Any]:
        data: dict[str, Any] = self.call("GET", f"/batches/{batch_id}")["data"]
        return data

    def stream(self, batch_id: str, form: str, status: str | None = None) -> Iterator[bytes]:
        """All results as the server writes them: `ndjson` or `csv`, whose cells no spreadsheet runs as formulas."""
        headers = {"Accept": _MEDIA_TYPES[form]}
        path, parameters = f"/api/v1/batches/{batch_id}/results", {"status": status} if status else {}
        with self._reached(), self._http.stream("GET", path, params=parameters, headers=headers) as response:
            if not response.is_success:
                response.read()
                self._envelope(response)
            yield from response.iter_bytes()

    def results(self, batch_id: str, status: str | None = None) -> Iterator[dict[str, Any]]:
        """All of them, in the order of the requests; pages are fetched as they are needed."""
        parameters: dict[str, Any] = {"limit": _PAGE} | ({"status": status} if status else {})
        while True:
            page = self.call("GET", f"/batches/{batch_id}/results", params=parameters)
            yield from page["data"]
            cursor = page["pagination"]["next_cursor"]
            if cursor is None:
                return
            parameters["cursor"] = cursor


def submit(
    client: Client,
    file: Path,
    *,
    agent: UUID | None,
    processor: str | None,
    config: Path | None,
    name: str | None,
) -> str:
    """The new batch's id."""
    body: dict[str, Any] = {"requests": _requests(file)}
    given = {
        "agent_id": str(agent) if agent else None,
        "processor": processor,
        "config": _read(config) if config else None,
        "name": name,
    }
    body |= {key: value for key, value in given.items() if value is not None}
    return str(client.create("/batches", orjson.dumps(body))["data"]["id"])


def _undecided(answer: httpx2.Response) -> bool:
    """Whether the same request may have a better answer soon."""
    in_flight = answer.status_code == 409 and "retry-after" in answer.headers
    return in_flight or answer.status_code in (502, 503, 504)


def _retry_after(answer: httpx2.Response, otherwise: float) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), _MAX_RETRY_SECONDS) if told.isascii() and told.isdigit() else otherwise


def retry(client: Client, batch_id: str, *, codes: list[int] | None, custom_ids: list[str] | None) -> str:
    """What was begun, in words."""
    chosen = {"error_codes": codes, "custom_ids": custom_ids}
    body = {name: values for name, values in chosen.items() if values}
    batch = client.call("POST", f"/batches/{batch_id}/retry", json=body)["data"]
    return f"run {batch['run']}: {batch['pending_requests']} requests again"


def watch(client: Client, batch_id: str, console: Console | None = None) -> bool:
    """Shows progress until the batch has ended; whether it completed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    batch = client.batch(batch_id)  # a mistake is told before there is a bar
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(batch["status"], total=None, pace="")
        while True:
            done = batch["completed_requests"] + batch["failed_requests"]
            progress.update(
                bar,
                description=batch["status"],
                total=batch["total_requests"],
                completed=done,
                pace=_pace(batch),
            )
            if batch["status"] in TERMINAL:
                return bool(batch["status"] == "completed")
            time.sleep(_WAIT_SECONDS)
            batch = client.batch(batch_id)


def _pace(batch: dict[str, Any]) -> str:
    rate, seconds, reason = batch.get("throughput"), batch.get("eta_seconds"), batch.get("waiting_reason")
    told = [f"{rate:.1f}/s"] if rate else []
    told += [f"{seconds // 60}:{seconds % 60:02} left"] if seconds else []
    told += [reason] if reason else []
    told += [f"{batch['failed_requests']} failed"] if batch["failed_requests"] else []
    return " · ".join(told)


def _requests(file: Path) -> list[Any]:
    lines = sys.stdin.buffer.read() if str(file) == "-" else _bytes(file)
    requests = []
    for number, line in enumerate(lines.splitlines(), 1):
        if line.strip():
            try:
                requests.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise Refusal(f"{file}, line {number}: {error}") from None
    return requests


def _read(file: Path) -> Any:
    try:
        return orjson.loads(_bytes(file))
    except orjson.JSONDecodeError as error:
        raise Refusal(f"{file}: {error}") from None


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refusal(f"cannot read {file}: {error.strerror}") from None


def _told(envelope: dict[str, Any], status: int) -> str:
    """The server's message, and where it found what."""
    problems = (envelope.get("error") or {}).get("errors") or []
    lines = [_placed(str(one.get("pointer") or ""), str(one.get("detail"))) for one in problems]
    if len(lines) == 1:
        return f"{lines[0]} (status {status})"
    return "\n  ".join([f"{envelope.get('message') or 'refused'} (status {status})", *lines])


def _placed(pointer: str, detail: str) -> str:
    """Of a query parameter, the detail begins with its name."""
    return detail if not pointer or detail.startswith(f"{pointer}:") else f"{pointer}: {detail}"
