"""A client that costs little: one kept-alive connection, bodies made before the clock runs."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

TIMEOUT_SECONDS = 120.0
IDLE_SECONDS = 2.0
LOOK_SECONDS = 0.25  # between looks for the end; when it was, the batches themselves say


class Client:
    def __init__(self, url: str, key: str) -> None:
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._key = key
        self._used = time.monotonic()
        self._connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, accept: str = "application/json"
    ) -> bytes:
        """The body of the answer, whole. Raises RuntimeError unless it is a 2xx."""
        headers = {"x-api-key": self._key, "accept": accept, "content-type": "application/json"}
        self._send(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status // 100 != 2:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return text

    def _send(self, *arguments: Any, **more: Any) -> None:
        """On the connection that is there, unless it was idle for so long that the server may have closed it."""
        if time.monotonic() - self._used > IDLE_SECONDS:
            self._connection.close()
        self._connection.request(*arguments, **more)
        self._used = time.monotonic()

    def get(self, path: str) -> Any:
        return json.loads(self.ask("GET", path))

    def create(self, body: bytes) -> str:
        """Posts a batch; answers with its id."""
        return str(json.loads(self.ask("POST", "/api/v1/batches", body))["data"]["id"])

    def upload(self, name: str, content: bytes) -> str:
        """Answers with the file's id."""
        path = f"/api/v1/files?filename={quote(name)}"
        return str(json.loads(self.ask("POST", path, content))["data"]["id"])

    def upload_from(self, path: Path) -> str:
        """The same of a file that is not read as a whole."""
        with path.open("rb") as file:
            self._send(
                "POST",
                f"/api/v1/files?filename={quote(path.name)}",
                file,
                {"x-api-key": self._key, "content-length": str(path.stat().st_size)},
            )
            answer = self._connection.getresponse()
            text = answer.read()
        if answer.status // 100 != 2:
            raise RuntimeError(f"upload: {answer.status} {text[:500]!r}")
        return str(json.loads(text)["data"]["id"])

    def stream(self, batch_id: str) -> Iterator[bytes]:
        """The results of a batch as NDJSON, line by line as they come."""
        path = f"/api/v1/batches/{batch_id}/results"
        self._send("GET", path, headers={"x-api-key": self._key, "accept": "application/x-ndjson"})
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status}")
        yield from answer

    def ended(self, batch_id: str, *, timeout_seconds: float) -> Any:
        """The batch, once it has ended."""
        end = time.monotonic() + timeout_seconds
        while True:
            found = self.get(f"/api/v1/batches/{batch_id}?wait=20")["data"]
            if found["status"] in {"completed", "failed", "cancelled"}:
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"batch {batch_id} has not ended after {timeout_seconds:g} s: {found}")

    def lines(self, batch_id: str) -> list[bytes]:
        """All results of a batch as the NDJSON stream has them."""
        path = f"/api/v1/batches/{batch_id}/results"
        return self.ask("GET", path, accept="application/x-ndjson").splitlines()

    def until_ended(self, total: int, *, timeout_seconds: float) -> None:
        """Until that many batches have completed and none is under way."""
        end = time.monotonic() + timeout_seconds
        while self.count("completed") < total:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.count('in_progress')} batches are still under way")
            time.sleep(LOOK_SECONDS)

    def count(self, status: str) -> int:
        found = self.get(f"/api/v1/batches?status={status}&limit=1")
        return int(found["pagination"]["total_records"])

    def requests_per_second(self, path: str, *, connections: int, rounds: int) -> float:
        """The same GET over several connections at once, in step: all are asked, then all are read."""
        host = f"{self._address[0]}:{self._address[1]}"
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nx-api-key: {self._key}\r\n\r\n".encode()
        open_ = [socket.create_connection(self._address, TIMEOUT_SECONDS) for _ in range(connections)]
        files = [one.makefile("rb") for one in open_]
        began = time.perf_counter()
        for _ in range(rounds):
            for one in open_:
                one.sendall(request)
            for file in files:
                _read_answer(file)
        taken = time.perf_counter() - began
        for one in (*files, *open_):
            one.close()
        return connections * rounds / taken


def _read_answer(file: Any) -> None:
    status = file.readline()
    length = 0
    while (line := file.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    file.read(length)
    if b" 200 " not in status:
        raise RuntimeError(f"GET was answered with {status!r}")
