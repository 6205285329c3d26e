"""The real command in processes of its own."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import pytest

from gristmill.__main__ import main


@dataclass
class Running:
    """A server that said where it is. `new_key` is what it showed."""

    process: "subprocess.Popen[str]"
    url: str
    new_key: str | None

    def client(self, key: str) -> httpx2.Client:
        headers = {"x-api-key": key}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


@dataclass
class Command:
    """`program` are Python's arguments in front of the command's own; `log` gets what a started one says on stderr."""

    environment: dict[str, str] = field(default_factory=dict)
    program: Sequence[str] = ("-m", "gristmill")
    log: Path | None = None

    def run(
        self, *arguments: str, stdin: str | None = None, seconds: float = 100, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *self.program, *arguments],
            env=self._environment(more), input=stdin, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def call(self, *arguments: str, stdin: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        """As `run`, but in this process: without the second that a start takes. Not from a coroutine."""
        out, err = io.TextIOWrapper(io.BytesIO(), newline=""), io.StringIO()
        read = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        with (
            mock.patch.dict(os.environ, self._environment(more), clear=True),
            mock.patch.object(sys, "argv", ["gristmill", *arguments]),
            mock.patch.object(sys, "stdin", read),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            main()
        out.seek(0)
        return subprocess.CompletedProcess(arguments, int(left.value.code or 0), out.read(), err.getvalue())

    @contextmanager
    def start(self, *arguments: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
        with self.log.open("a") if self.log else nullcontext() as log:
            process = subprocess.Popen(
                [sys.executable, *self.program, *arguments],
                env=self._environment(more), stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def serve(self, *arguments: str, **more: str) -> Iterator[Running]:
        with self.start("serve", "--port", "0", *arguments, **more) as process:
            url = wait_for(process, "serves on").split()[3]
            following = [] if "GRISTMILL_API_KEY" in self.environment | more else [process.stdout.readline()]  # type: ignore[union-attr]
            shown = next((line.split(": ")[1].strip() for line in following if "API key" in line), None)
            yield Running(process, url, shown)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRISTMILL_")}
        return inherited | {"COLUMNS": "200"} | self.environment | more


def wait_for(process: "subprocess.Popen[str]", text: str) -> str:
    """The first line of its output that has the text in it."""
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} was not among: {lines}")


def scripted(*items: dict[str, Any]) -> dict[str, Any]:
    """The body of a batch for the processor that does what its input says."""
    return {
        "processor": "scripted",
        "requests": [{"custom_id": f"i{number}", "input": item} for number, item in enumerate(items)],
    }
