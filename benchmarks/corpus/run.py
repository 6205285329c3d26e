"""The corpus through a real server: parse, table_extraction, extract, qa_generation and tag, and a count of what came out.

The model is first one that computes its answers from the prompt and slips in a tenth of invalid JSON and a tenth of invented
passages by a seed (tests/fakes); then, for a few short documents, a real one of toy size on this machine. Every count is
compared with what was slipped in, every extracted value with its schema, and every passage with the Markdown that parse gives.
Ends with 1 if one differs.
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.corpus.fetch import FILES
from benchmarks.postgres import running
from benchmarks.service import serving
from gristmill.cli.local_model import NAME, LocalModel
from gristmill.processors import output_schema
from gristmill.processors.extract import DEFAULT_SCHEMA

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from fakes.librarian import Librarian
from fakes.llm import FakeLLM
from fakes.script import Script

SEED, SHARE = 11, 0.1
SECONDS = 500.0  # for one batch
LOCAL_DOCUMENTS = 6
_SHORT = range(400, 2500)  # characters of Markdown that a context of 2048 tokens holds with all else
_SMALL = {  # for a model of 135 million parameters
    "parameters": {"temperature": 0, "max_tokens": 400},
    "max_characters": 2500,
}
_CARD = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 100},
        "kind": {"enum": ["letter", "manual", "list", "article", "data", "other"]},
        "names": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 40}},
    },
    "required": ["title", "kind", "names"],
    "additionalProperties": False,
}

Results = dict[str, dict[str, Any]]


@dataclass
class Mismatches:
    found: list[str]

    def check(self, what: str, have: object, want: object) -> None:
        if have != want:
            self.found.append(f"{what}: {have}, expected {want}")


def main() -> None:
    paths = sorted(FILES.iterdir()) if FILES.is_dir() else []
    if not paths:
        sys.exit("There is no corpus yet: make corpus")
    wrong = Mismatches([])
    print(f"{len(paths)} documents, seed {SEED}\n")
    print("| processor | model | documents | succeeded | failed | calls | asked again | seconds | |")
    print("|---|---|--:|--:|---|--:|--:|--:|---|")
    with running() as postgres:
        with (
            _scripted() as llm,
            serving(postgres, "corpus", lone_worker=False, settings=_at(llm.url, "m")) as service,
        ):
            markdown = _all(service.client, paths, llm, wrong)
        chosen = _short_ones(paths, markdown)
        with tempfile.TemporaryDirectory() as folder, LocalModel(Path(folder) / "log") as model:
            settings = _at(model.url, NAME)
            with serving(postgres, "corpus_local", lone_worker=False, settings=settings) as service:
                _few(service.client, chosen, wrong)
    print(
        "\n"
        + "\n".join(
            wrong.found
            or ["Every count is what was slipped in; every value validates; every passage is there."]
        )
    )
    sys.exit(bool(wrong.found))


def _at(url: str, model: str) -> dict[str, str]:
    return {"GRISTMILL_LLM_BASE_URL": url, "GRISTMILL_LLM_MODEL": model}


@contextmanager
def _scripted() -> Iterator[FakeLLM]:
    """On a loop of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    llm = FakeLLM()
    asyncio.run_coroutine_threadsafe(llm.start(), loop).result(10)
    try:
        yield llm
    finally:
        asyncio.run_coroutine_threadsafe(llm.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)


def _all(client: Client, paths: list[Path], llm: FakeLLM, wrong: Mismatches) -> dict[str, str]:
    """Every document through every processor, with the script. Answers with the Markdown of each by name."""
    work = _Work(client, paths, "script")
    parsed = work.done("parse", configuration_id="cfg-PARSE_FAST")
    markdown = {name: one["response_content"] for name, one in parsed.items() if not one["error"]}
    tables = work.done(
        "table_extraction", lambda found: f"{_sum(found, 'table_count')} tables", processor="table_extraction"
    )
    wrong.check("documents with tables or without that are refused", _failures(tables), _failures(parsed))

    llm.script = script = Script(SEED, SHARE, invented=SHARE)
    extracted = work.done("extract", _left_out, configuration_id="cfg-EXTRACT_DEFAULT")
    wrong.check("extract: asked again", _sum(extracted, "asked_again"), script.told["invalid"])
    _check_values(extracted, DEFAULT_SCHEMA, wrong)

    llm.script = script = Script(SEED, SHARE, invented=SHARE)
    asked = work.done("qa_generation", _pairs, configuration_id="cfg-QA_DEFAULT")
    wrong.check("qa_generation: asked again", _sum(asked, "asked_again"), script.told["invalid"])
    wrong.check("qa_generation: pairs", _sum(asked, "pairs_given"), script.told["pairs"])
    wrong.check("qa_generation: invented", _dropped(asked)["passage_not_found"], script.told["invented"])
    _check_passages(asked, markdown, wrong)

    llm.script = librarian = Librarian(SEED, SHARE)
    tagged = work.done("tag", configuration_id="cfg-TAG_DEFAULT")
    calls = librarian.told["asked"] + librarian.told["invalid"]
    wrong.check("tag: calls", sum(_calls(one) for one in tagged.values()), calls)
    return markdown


def _short_ones(paths: list[Path], markdown: dict[str, str]) -> list[Path]:
    """Of each kind the longest that is short enough; of the kinds those that come first."""
    short = [path for path in paths if len(markdown.get(path.name, "")) in _SHORT]
    by_kind = {path.suffix: path for path in sorted(short, key=lambda path: len(markdown[path.name]))}
    return sorted(by_kind.values())[:LOCAL_DOCUMENTS]


def _few(client: Client, paths: list[Path], wrong: Mismatches) -> None:
    work = _Work(client, paths, NAME)
    parsed = work.done("parse", configuration_id="cfg-PARSE_FAST")
    markdown = {name: one["response_content"] for name, one in parsed.items() if not one["error"]}
    work.done(
        "table_extraction", lambda found: f"{_sum(found, 'table_count')} tables", processor="table_extraction"
    )
    extracted = work.done("extract", _left_out, processor="extract", config={"schema": _CARD, **_SMALL})
    _check_values(extracted, _CARD, wrong)
    config = {"pairs_per_chunk": 1, "max_pairs": 2, **_SMALL, "max_characters": 1500}
    asked = work.done("qa_generation", _pairs, processor="qa_generation", config=config)
    _check_passages(asked, markdown, wrong)
    work.done("tag", processor="tag", config={"parameters": _SMALL["parameters"]})


class _Work:
    """A directory of these documents on a server."""

    def __init__(self, client: Client, paths: list[Path], model: str) -> None:
        self._client, self._model = client, model
        self._names = {client.upload(path.name, path.read_bytes()): path.name for path in paths}
        body = json.dumps({"name": "corpus"}).encode()
        self._directory: str = json.loads(client.ask("POST", "/api/v1/directories", body))["data"]["id"]
        files = json.dumps({"file_ids": list(self._names)}).encode()
        client.ask("POST", f"/api/v1/directories/{self._directory}/files", files)

    def done(self, name: str, more: Callable[[Results], str] = lambda found: "", **body: Any) -> Results:
        """One batch over all of them: its results by the name of the file, and its line of the table."""
        began = time.monotonic()
        body["source"] = {"directory_id": self._directory}
        batch_id = self._client.create(json.dumps(body).encode())
        while (batch := self._client.get(f"/api/v1/batches/{batch_id}?wait=20")["data"])[
            "status"
        ] != "completed":
            if time.monotonic() - began > SECONDS:
                sys.exit(f"{name} is not done after {SECONDS:g} seconds: {batch['completed_requests']} are")
        taken = time.monotonic() - began
        lines = map(json.loads, self._client.lines(batch_id))
        found: Results = {self._names[one["custom_id"]]: one for one in lines}
        failed = Counter(_failures(found).values())
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(failed.items())) or "0"
        row = (name, self._model, len(found), len(found) - failed.total(), said)
        told = any("asked_again" in one for one in _outputs(found).values())
        again = _sum(found, "asked_again") if told else "–"
        counts = (sum(map(_calls, found.values())), again, f"{taken:.0f}", more(found))
        print("| " + " | ".join(map(str, row + counts)) + " |", flush=True)
        return found


def _failures(found: Results) -> dict[str, str]:
    return {name: one["error"]["type"] for name, one in found.items() if one["error"]}


def _calls(one: dict[str, Any]) -> int:
    return int(one["response_usage"]["total_calls"]) if one["response_usage"] else 0


def _outputs(found: Results) -> dict[str, dict[str, Any]]:
    return {name: one["output"] for name, one in found.items() if not one["error"]}


def _sum(found: Results, name: str) -> int:
    return sum(one.get(name, 0) for one in _outputs(found).values())


def _left_out(found: Results) -> str:
    return f"{_sum(found, 'parts')} parts, {_sum(found, 'parts_left_out')} left out"


def _dropped(found: Results) -> Counter[str]:
    dropped = Counter[str]()
    for one in _outputs(found).values():
        dropped.update(one["dropped"])
    return dropped


def _pairs(found: Results) -> str:
    kept = sum(len(one["pairs"]) for one in _outputs(found).values())
    dropped = ", ".join(f"{count} {name}" for name, count in _dropped(found).items() if count)
    chunks = f"{_sum(found, 'chunks_asked')} of {_sum(found, 'chunks')} chunks"
    return f"{chunks}, {_sum(found, 'pairs_given')} pairs given, {kept} kept; dropped: {dropped or 'none'}"


def _check_values(found: Results, schema: dict[str, Any], wrong: Mismatches) -> None:
    usable = output_schema.of(schema)
    for name, one in _outputs(found).items():
        wrong.check(f"extract: {name}", usable.flaws(one["data"]), [])


def _check_passages(found: Results, markdown: dict[str, str], wrong: Mismatches) -> None:
    for name, one in _outputs(found).items():
        for pair in one["pairs"]:
            wrong.check(f"passage in {name}", markdown[name][pair["start"] : pair["end"]], pair["passage"])


if __name__ == "__main__":
    main()
