"""A real S3 server in a process of its own (moto's), with a look from outside at what lies in its buckets."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO
from uuid import uuid4

import requests
from pydantic import SecretStr

from gristmill.settings import Settings

KEY_ID, SECRET = "the-operators-key-id", "the-operators-secret-key"
_SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=x"
}


@dataclass(frozen=True)
class Bucket:
    """Empty at first."""

    url: str  # of the server
    name: str

    def settings(self, prefix: str = "gristmill", **more: object) -> Settings:
        return Settings(
            storage_url=f"s3://{self.name}/{prefix}",
            s3_endpoint_url=self.url,
            s3_access_key_id=SecretStr(KEY_ID),
            s3_secret_access_key=SecretStr(SECRET),
            **more,
        )

    def environment(self, prefix: str = "gristmill") -> dict[str, str]:
        return {
            "GRISTMILL_STORAGE_URL": f"s3://{self.name}/{prefix}",
            "GRISTMILL_S3_ENDPOINT_URL": self.url,
            "GRISTMILL_S3_ACCESS_KEY_ID": KEY_ID,
            "GRISTMILL_S3_SECRET_ACCESS_KEY": SECRET,
        }

    def keys(self) -> list[str]:
        return re.findall("<Key>([^<]*)</Key>", self._send("GET", "?list-type=2"))

    def broken_off(self) -> list[str]:
        """Uploads that were begun and neither completed nor given up."""
        return re.findall("<UploadId>([^<]*)</UploadId>", self._send("GET", "?uploads"))

    def put(self, key: str, data: bytes) -> None:
        self._send("PUT", f"/{key}", data)

    def make(self) -> "Bucket":
        self._send("PUT", "")
        return self

    def _send(self, method: str, path: str, data: bytes = b"") -> str:
        answer = requests.request(
            method, f"{self.url}/{self.name}{path}", data=data, headers=_SIGNED, timeout=30
        )
        assert answer.ok, answer.text
        return answer.text


@dataclass(frozen=True)
class S3Server:
    url: str

    def bucket(self) -> Bucket:
        return Bucket(self.url, f"b-{uuid4()}").make()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            port = _port(process.stderr)
            reading = threading.Thread(target=_read_on, args=(process.stderr,), daemon=True)
            reading.start()
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def _port(log: IO[str]) -> int:
    for line in log:
        if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("the S3 server ended at once")


def _read_on(log: IO[str]) -> None:
    """Its log must not fill the pipe."""
    for _ in log:
        pass
