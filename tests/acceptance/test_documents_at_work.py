"""Documents through a real server: a directory of them through every processor that reads, and a table of 100,000 rows."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from documents.installed import of_kind
from documents.producers import PRODUCERS
from fakes.librarian import Librarian, most_frequent
from fakes.llm import FakeLLM
from stranger import BATCHES, Mill, Stranger, until

pytestmark = pytest.mark.slow

ROWS = 100_000
KEY = "sk-of-the-caller-0123456789"
# What fails, and why, whichever processor reads it.
REFUSED = {"encrypted.pdf": "encrypted", "locked.bin": "unsupported_type"}
WITHOUT_TEXT = dict.fromkeys(("scanned.pdf", "parts.ods", "parts.xls"), "too_little_text")


@pytest.fixture
async def librarian(mill: Mill) -> AsyncIterator[Librarian]:
    before, mill.llm.script = mill.llm.script, Librarian(seed=7, invalid=0.2, invented=0.2)
    mill.llm.requests.clear()
    yield mill.llm.script
    mill.llm.script = before


@pytest.fixture
async def shelf(stranger: Stranger, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A directory, and the ids of its files by name: one of each kind that is made here, and what others wrote."""
    contents = {}
    for name, produce in PRODUCERS.items():
        produce(tmp_path / name)
        contents[name] = (tmp_path / name).read_bytes()
    for suffix in (".md", ".txt", ".csv", ".html", ".rst"):
        contents |= {f"{n}-{path.name}": path.read_bytes() for n, path in enumerate(of_kind(suffix))}
    contents["locked.bin"] = bytes(range(256)) * 20
    ids = {name: await stranger.upload(content, name) for name, content in contents.items()}
    return await stranger.directory(*ids.values()), ids


async def work_off(
    stranger: Stranger, directory_id: str, configuration_id: str | None = None, **body: Any
) -> dict[str, dict[str, Any]]:
    """The results by the name of the file."""
    if configuration_id is not None:
        body["configuration_id"] = configuration_id
    batch = await stranger.make(source={"directory_id": directory_id}, **body)
    ended = await stranger.ended(batch["id"])
    assert ended["status"] == "completed"
    results = await stranger.results(batch["id"], "?limit=1000")
    tasks = await stranger.get(f"/api/v1/tasks?page_size=1000&collection={body['collection']}")
    names = {one["custom_id"]: one["file_name"] for one in tasks.json()["data"]}
    assert len(names) == ended["total_requests"] == len(results)
    return {names[one["custom_id"]]: one for one in results}


def failures(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["error"]["type"] for name, one in results.items() if one["error"]}


async def test_a_directory_goes_through_every_processor_that_reads_documents(
    stranger: Stranger, shelf: tuple[str, dict[str, str]], librarian: Librarian, mill: Mill
) -> None:
    directory_id, ids = shelf
    assert len(ids) >= 20

    read = await work_off(stranger, directory_id, "cfg-PARSE_FAST", collection="fast")
    assert failures(read) == REFUSED
    assert mill.llm.requests == []
    for name, one in read.items():
        if one["error"]:
            assert one["error"]["suggestion"]
        else:
            assert one["output"]["filename"] == name
            assert one["output"]["page_count"] == len(one["output"]["pages"])
            assert one["response_content"].strip() or one["output"]["scanned"]

    tables = await work_off(stranger, directory_id, processor="table_extraction", collection="tables")
    assert failures(tables) == REFUSED
    counts = {name: one["output"]["table_count"] for name, one in tables.items() if one["output"]}
    assert {name for name, count in counts.items() if count} >= {
        "story.docx", "story.pptx", "story.odt", "typed.pdf", "parts.xlsx", "parts.xls", "parts.ods",
    }  # fmt: skip
    assert counts["letter.eml"] == counts["scanned.pdf"] == 0
    every = [table["id"] for one in tables.values() if one["output"] for table in one["output"]["tables"]]
    assert len(every) == len(set(every))

    tagged = await work_off(stranger, directory_id, "cfg-TAG_DEFAULT", collection="tags")
    assert failures(tagged) == REFUSED | WITHOUT_TEXT
    said = {tuple(most_frequent(request.said)[:8]) for request in mill.llm.requests}
    for one in tagged.values():
        if one["output"]:
            tags = one["output"]["tags"]
            assert 1 <= len(tags) <= 8
            assert tags == list(dict.fromkeys(tags))
            assert tuple(tags) in said
    asked = sum(one["response_usage"]["total_calls"] for one in tagged.values() if one["response_usage"])
    assert asked == len(mill.llm.requests) == librarian.told["asked"] + librarian.told["invalid"]
    assert librarian.told["asked"] == len(ids) - len(REFUSED | WITHOUT_TEXT)
    assert librarian.told["invalid"] > 0

    mill.llm.requests.clear()
    mended = await work_off(stranger, directory_id, "cfg-PARSE_AGENTIC", collection="agentic")
    assert failures(mended) == REFUSED
    outputs = [one["output"]["mended"] for one in mended.values() if one["output"]]
    assert sum(one["pieces"] for one in outputs) == len(mill.llm.requests)
    assert sum(one["kept_as_read"] for one in outputs) == librarian.told["invented"] > 0
    assert all("owls" not in one["response_content"] for one in mended.values() if one["output"])


async def test_a_batch_of_tags_runs_on_the_caller_s_own_key_and_leaves_no_trace_of_it(
    stranger: Stranger, librarian: Librarian, mill: Mill
) -> None:
    given = {
        "title": "The mill",
        "description": "The water mill grinds grain to flour for the whole village.",
    }
    async with FakeLLM():  # the endpoint stays the operator's; only the key is the caller's
        batch = await stranger.make(
            configuration_id="cfg-TAG_DEFAULT",
            upstream={"api_key": KEY, "model": "mine"},
            requests=[{"custom_id": "a", "input": given}],
        )
        await stranger.ended(batch["id"])
    [request] = mill.llm.requests
    assert (request.headers["authorization"], request.body["model"]) == (f"Bearer {KEY}", "mine")
    [result] = await stranger.results(batch["id"])
    assert result["error"]["type"] == "upstream_unauthorized"  # the endpoint takes the operator's alone
    assert "upstream.api_key" in result["error"]["suggestion"]
    async with mill.database.connection() as connection:
        rows = await connection.fetch("SELECT batch::text FROM batch WHERE id = $1::text::uuid", batch["id"])
        columns = await connection.fetchval(
            "SELECT upstream_key FROM batch WHERE id = $1::text::uuid", batch["id"]
        )
    assert columns is None
    for text in (str(rows), str(result), mill.log.read_text()):
        assert KEY not in text


def table() -> bytes:
    """As spreadsheets write them: a byte order mark, quotes, line breaks within cells, columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n", delimiter=";")
    writer.writerow(["Nr.", "Titel", "Beschreibung", "Ablage", "Größe"])
    for n in range(ROWS):
        text = f'Vorgang {n}: die "alte" Mühle;\nmahlt Körner zu Mehl, Tag und Nacht, bei jedem Wetter.'
        writer.writerow([f"R{n}", f"Titel {n}", text, f"Regal {n % 7}", n if n % 2 else ""])
    return out.getvalue().encode("utf-8-sig")


async def test_a_table_of_100_000_rows_becomes_a_batch_of_tags_in_bounded_memory(
    stranger: Stranger, mill: Mill
) -> None:
    content = table()
    server = psutil.Process(mill.running.process.pid)
    before = most = server.memory_info().rss
    file_id = await stranger.upload(content, "rows.csv")

    mapping = {"Nr.": "custom_id", "Titel": "title", "Beschreibung": "description"}
    source = {"file_id": file_id, "column_mapping": mapping}
    wrong = {"file_id": file_id, "column_mapping": mapping | {"Titel": "heading", "Name": "title"}}
    refused = await stranger.post(BATCHES, {"configuration_id": "cfg-TAG_DEFAULT", "source": wrong})
    assert {(one["pointer"], one["code"]) for one in refused.json()["error"]["errors"]} == {
        ("/source/column_mapping/Titel", "unknown_field"),
        ("/source/column_mapping/Name", "unknown_column"),
    }
    batch = await stranger.make(configuration_id="cfg-TAG_DEFAULT", source=source, start_paused=True)
    assert batch["total_requests"] == ROWS

    async def ingested() -> dict[str, Any] | None:
        nonlocal most
        most = max(most, server.memory_info().rss)
        found = await stranger.results(batch["id"], f"?limit=1&offset={ROWS - 1}")
        return found[0] if found else None

    last = await until(ingested)
    assert (last["custom_id"], last["status"]) == (f"R{ROWS - 1}", "pending")
    grown = (most - before) / 2**20
    print(f"{len(content) / 2**20:.1f} MiB of CSV, {grown:.1f} MiB more memory")
    assert grown < 64
    shown = await stranger.data(f"{BATCHES}/{batch['id']}/results/R4711")
    assert shown["input"] == {
        "title": "Titel 4711",
        "description": 'Vorgang 4711: die "alte" Mühle;\nmahlt Körner zu Mehl, Tag und Nacht, bei jedem Wetter.',
        "metadata": {"Ablage": "Regal 0", "Größe": "4711"},
    }
    assert (await stranger.data(f"{BATCHES}/{batch['id']}/results/R4712"))["input"]["metadata"] == {
        "Ablage": "Regal 1"
    }
    await stranger.act(batch["id"], "cancel")
    assert (await stranger.ended(batch["id"]))["cancelled_requests"] == ROWS
