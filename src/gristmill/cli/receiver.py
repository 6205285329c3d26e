"""A webhook's receiver as a user would write one: checks both signatures with nothing but the secret."""

import base64
import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_TOLERANCE_SECONDS = 300


class Receiver:
    """Listens on this machine only, within `with`. `url` and `secret` are what a batch's webhook wants."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self.secret = "whsec_" + base64.b64encode(self._key).decode()
        self.event: dict[str, Any] | None = None  # the first that was verified
        self._arrived = threading.Event()

    def __enter__(self) -> "Receiver":
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(204 if receiver.accept(dict(self.headers), body) else 401)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
                """Nothing: the demo tells what arrives."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> dict[str, Any] | None:
        self._arrived.wait(seconds)
        return self.event

    def accept(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether it is signed by who knows the secret, by Standard Webhooks' scheme and by seed 004's."""
        import time

        given = {name.lower(): value for name, value in headers.items()}
        timestamp = given.get("webhook-timestamp", "")
        signed = f"{given.get('webhook-id')}.{timestamp}.".encode() + body
        standard = "v1," + base64.b64encode(hmac.digest(self._key, signed, "sha256")).decode()
        other = "sha256=" + hmac.digest(self.secret.encode(), f"{timestamp}.".encode() + body, "sha256").hex()
        genuine = hmac.compare_digest(given.get("webhook-signature", ""), standard)
        genuine &= hmac.compare_digest(given.get("x-codeer-signature", ""), other)
        if not genuine or abs(time.time() - int(timestamp)) > _TOLERANCE_SECONDS:
            return False
        if self.event is None:
            self.event = json.loads(body)
        self._arrived.set()
        return True
