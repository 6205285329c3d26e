"""parse and table_extraction on real files, and on what they refuse."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from documents.installed import of_kind, template
from documents.producers import ROWS
from fakes.librarian import INVENTED, Librarian
from fakes.llm import FakeLLM
from fakes.world import TENANT, World
from gristmill.documents import ParserPool
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import documents, get, mending, validate, validate_config
from gristmill.processors.base import Context

Files = dict[str, Path]
BOTH = ("parse", "table_extraction")


async def run(world: World, path: Path | str, processor: str = "parse", **config: Any) -> Outcome:
    chosen, problems = validate_config(get(processor), config)
    assert problems == []
    given = {"source": str(path), "source_type": "local"}
    return await world.run(get(processor), given, chosen)


async def output(world: World, path: Path | str, processor: str = "parse", **config: Any) -> Any:
    outcome = await run(world, path, processor, **config)
    assert isinstance(outcome, Success), outcome
    return outcome.output


def error(outcome: Outcome) -> tuple[str, int, bool]:
    assert isinstance(outcome, Failure), outcome
    assert outcome.error.message.endswith(".")
    return outcome.error.type, outcome.error.code, outcome.error.suggestion is not None


async def test_a_pdf_comes_page_by_page_with_what_is_known_of_it(reading: World, files: Files) -> None:
    found = await output(reading, files["typed.pdf"])
    assert (found["media_type"], found["filename"], found["page_count"]) == (
        "application/pdf",
        "typed.pdf",
        2,
    )
    assert (found["language"], found["scanned"]) == ("en", False)
    assert found["metadata"]["author"] == "Ada Miller"
    assert [page["number"] for page in found["pages"]] == [1, 2]
    assert found["pages"][0]["markdown"].startswith("# The mill by the river")
    assert found["pages"][1]["text"] == "These are the last words about the mill."
    assert "tables" not in found


@pytest.mark.parametrize("suffix", [".md", ".txt", ".csv", ".html", ".json", ".rst"])
async def test_documents_that_others_wrote_are_read(reading: World, suffix: str) -> None:
    paths = of_kind(suffix)
    assert paths
    for path in paths:
        outcome = await run(reading, path)
        assert isinstance(outcome, Success)
        words = {word for word in path.read_text("utf-8").split() if word.isalpha() and len(word) > 6}
        assert outcome.content == outcome.output["pages"][0]["markdown"]
        if suffix != ".html":  # which has words in scripts that nobody sees
            assert len([word for word in words if word in outcome.content]) >= 0.9 * len(words)


@pytest.mark.parametrize(
    ("kind", "words"), [("docx", "## Heading 2"), ("odt", "Hello World!"), ("pptx", "# Presentation Title")]
)
async def test_office_documents_that_others_made_are_read(
    reading: World, tmp_path: Path, kind: str, words: str
) -> None:
    outcome = await run(reading, template(tmp_path / f"reference.{kind}"))
    assert isinstance(outcome, Success), outcome
    assert words in (outcome.content or "")


async def test_only_what_is_asked_for_is_in_the_output(reading: World, files: Files) -> None:
    found = await output(reading, files["typed.pdf"], text=False, tables="rows")
    assert found["pages"][0].keys() == {"number", "scanned", "markdown"}
    assert [(table["page"], table["rows"]) for table in found["tables"]] == [(1, ROWS)]
    assert "csv" not in found["tables"][0]
    plain = await run(reading, files["typed.pdf"], markdown=False, content="text")
    assert isinstance(plain, Success)
    assert plain.content == "\n\n".join(page["text"] for page in plain.output["pages"])
    without = await run(reading, files["typed.pdf"], content="none")
    assert isinstance(without, Success)
    assert without.content is None


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        ({}, [1, 2, 3, 4]),
        ({"first_page": 3}, [3, 4]),
        ({"first_page": 2, "last_page": 3}, [2, 3]),
        ({"max_pages": 1}, [1]),
        ({"first_page": 2, "last_page": 9, "max_pages": 2}, [2, 3]),
    ],
)
async def test_a_range_of_pages_can_be_chosen(
    reading: World, files: Files, config: dict[str, Any], numbers: list[int]
) -> None:
    found = await output(reading, files["story.pptx"], **config)
    assert [page["number"] for page in found["pages"]] == numbers
    assert found["page_count"] == 4


async def test_pages_of_a_pdf_behind_the_range_are_not_even_read(pool: ParserPool, files: Files) -> None:
    document = await pool.parse(files["typed.pdf"], "", last_page=1)
    assert [page.number for page in document.pages] == [1]
    assert document.page_count == 2
    whole = await pool.parse(files["typed.pdf"], "")
    assert document.pages == whole.pages[:1]
    assert whole.page_count == 2


@pytest.mark.parametrize("processor", BOTH)
async def test_a_range_without_pages_fails_and_says_how_many_there_are(
    reading: World, files: Files, processor: str
) -> None:
    outcome = await run(reading, files["typed.pdf"], processor, first_page=3)
    assert error(outcome) == ("no_such_page", 400, True)
    assert isinstance(outcome, Failure)
    assert "2 pages" in outcome.error.message


@pytest.mark.parametrize("processor", [*BOTH, "tag"])
@pytest.mark.parametrize(
    ("name", "code"),
    [("encrypted.pdf", "encrypted"), ("nothing.txt", "empty_document"), ("a.bin", "unsupported_type")],
)
async def test_what_the_reader_refuses_ends_the_item_with_its_word(
    reading: World, files: Files, tmp_path: Path, processor: str, name: str, code: str
) -> None:
    (tmp_path / "nothing.txt").write_bytes(b"")
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 20)
    assert error(await run(reading, files.get(name, tmp_path / name), processor)) == (code, 400, True)


@pytest.mark.parametrize("processor", [*BOTH, "tag"])
async def test_without_the_libraries_an_item_says_which_extra_is_missing(
    reading: World, files: Files, monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    monkeypatch.setattr("gristmill.documents.keeper._BOOT", _WITHOUT_LITEPARSE)
    async with ParserPool(1) as pool:
        poor = replace(reading, services=replace(reading.services, parser=pool))
        outcome = await run(poor, files["typed.pdf"], processor)
    assert error(outcome) == ("extra_missing", 500, True)


_WITHOUT_LITEPARSE = (
    "import sys; sys.path[:0] = {path!r}; sys.modules['liteparse'] = None; "
    "from gristmill.documents.nursery import main; main()"
)


async def test_an_output_that_would_be_too_large_fails_and_names_the_way_out(
    reading: World, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("The mill grinds. " * 200_000)  # 3.4 MB, three times in the output
    outcome = await run(reading, long)
    assert error(outcome) == ("output_too_large", 400, True)
    assert isinstance(outcome, Failure)
    assert "first_page" in (outcome.error.suggestion or "")
    assert isinstance(await run(reading, long, text=False), Success)
    table = tmp_path / "long.csv"
    table.write_text("a,b\n" + "grain,flour\n" * 400_000)
    assert error(await run(reading, table, "table_extraction")) == ("output_too_large", 400, True)


# --- tables ---------------------------------------------------------------------------------------------------


async def test_tables_come_as_rows_and_csv_with_their_page_and_an_id(reading: World, files: Files) -> None:
    found = await output(reading, files["story.pptx"], "table_extraction")
    [table] = found["tables"]
    assert table == {
        "id": f"{UUID(int=1)}-3-0",
        "index": 0,
        "page": 2,
        "row_count": 3,
        "column_count": 2,
        "rows": ROWS,
        "csv": "Part,Count\nStone,2\nWheel | rim,1\n",
    }
    assert (found["table_count"], found["page_count"], found["scanned_pages"]) == (1, 4, [])


async def test_a_document_without_tables_is_a_success_with_none(reading: World, files: Files) -> None:
    found = await output(reading, of_kind(".txt")[0], "table_extraction")
    assert (found["table_count"], found["tables"]) == (0, [])
    scan = await output(reading, files["scanned.pdf"], "table_extraction")
    assert (scan["tables"], scan["scanned_pages"]) == ([], [1])


async def test_small_tables_and_forms_that_are_not_wanted_are_left_out(reading: World, files: Files) -> None:
    assert await _count(reading, files["story.docx"], min_rows=3, min_columns=2) == 1
    assert await _count(reading, files["story.docx"], min_rows=4) == 0
    assert await _count(reading, files["story.docx"], min_columns=3) == 0
    found = await output(reading, files["story.docx"], "table_extraction", form="csv")
    assert "rows" not in found["tables"][0]


async def _count(world: World, path: Path, **config: Any) -> int:
    count: int = (await output(world, path, "table_extraction", **config))["table_count"]
    return count


async def test_a_csv_file_that_others_wrote_is_a_table(reading: World) -> None:
    [path] = of_kind(".csv", 1)
    [table] = (await output(reading, path, "table_extraction"))["tables"]
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert table["row_count"] == len(lines)
    assert ",".join(table["rows"][-1]) == lines[-1]


# --- with the model -------------------------------------------------------------------------------------------


TORN = "The old mill stands by the ri-\nver and grinds the grain that the far-\nmers bring to it. It is page {n}.\n"


def torn(tmp_path: Path, count: int = 1) -> Path:
    """Markdown of so many pieces."""
    path = tmp_path / "torn.md"
    path.write_text("\n".join(TORN.format(n=n) for n in range(count * 50)))
    return path


async def test_the_model_mends_the_markdown_and_leaves_the_text_as_it_was(
    reading: World, llm: FakeLLM, tmp_path: Path
) -> None:
    llm.script = librarian = Librarian()
    path = torn(tmp_path, 3)
    found = await run(reading, path, mode="agentic", model="large")
    assert isinstance(found, Success)
    assert (found.content or "").count("by the river and") == 150
    assert "ri-\nver" in found.output["pages"][0]["text"]
    assert found.output["mended"] == {"pieces": len(llm.requests), "kept_as_read": 0}
    assert librarian.told["mended"] == len(llm.requests) >= 3
    assert {request.body["model"] for request in llm.requests} == {"large"}
    assert found.usage is not None
    assert len(found.usage.calls) == len(llm.requests)
    assert found.usage.cost_microusd


async def test_an_answer_that_adds_or_drops_something_is_not_taken(
    reading: World, llm: FakeLLM, tmp_path: Path
) -> None:
    llm.script = librarian = Librarian(seed=3, invented=0.5)
    (tmp_path / "short.md").write_text("\n\n".join(f"# Part {n}\n\n{_paragraph(n)}" for n in range(200)))
    found = await output(reading, tmp_path / "short.md", mode="agentic")
    pieces = found["mended"]["pieces"]
    assert librarian.told["invented"] in range(1, pieces)
    assert found["mended"]["kept_as_read"] == librarian.told["invented"]
    assert INVENTED.strip() not in found["pages"][0]["markdown"]
    assert all(f"number {n} tells" in found["pages"][0]["markdown"] for n in range(200))


def _paragraph(n: int) -> str:
    return f"Paragraph number {n} tells of the mill at the river, of its wheel and its stone. " * 5


@pytest.mark.parametrize(
    "line", ["The mill grinds all the day.\n", "The mill grinds all the day. " * 500 + "\n"]
)
async def test_a_long_paragraph_is_cut_at_its_lines_and_put_together_again(
    reading: World, llm: FakeLLM, tmp_path: Path, line: str
) -> None:
    llm.script = Librarian()
    (tmp_path / "long.md").write_text(
        "# Head\n\n\n" + line * (500 if len(line) < 100 else 20) + "\n\nThe end is here."
    )
    whole = await output(reading, tmp_path / "long.md")
    found = await output(reading, tmp_path / "long.md", mode="agentic")
    assert found["pages"] == whole["pages"]
    assert all(len(request.said) <= mending.PIECE_CHARACTERS for request in llm.requests)
    assert len(llm.requests) == (3 if len(line) < 100 else 0)


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "The old mill."])
async def test_an_answer_that_is_something_else_is_not_taken(
    reading: World, llm: FakeLLM, tmp_path: Path, answer: str
) -> None:
    chat = {"choices": [{"message": {"role": "assistant", "content": answer}}], "usage": {}}
    llm.script = lambda request: (200, chat)
    path = torn(tmp_path)
    found = await run(reading, path, mode="agentic")
    assert isinstance(found, Success)
    assert found.content == path.read_text().strip("\n")
    assert found.output["mended"]["kept_as_read"] == found.output["mended"]["pieces"]


async def test_a_document_that_takes_too_many_calls_fails_before_the_first(
    reading: World, llm: FakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "MAX_CALLS", 2)
    assert error(await run(reading, torn(tmp_path, 4), mode="agentic")) == ("document_too_long", 400, True)
    assert llm.requests == []


async def test_scanned_pages_are_reported_and_never_sent(reading: World, files: Files, llm: FakeLLM) -> None:
    llm.script = Librarian()
    found = await output(reading, files["half-scanned.pdf"], mode="agentic")
    assert [page["scanned"] for page in found["pages"]] == [False, True, False]
    assert found["mended"]["pieces"] == len(llm.requests) <= 2


class Kept:
    """Checkpoints of one item, in memory."""

    def __init__(self) -> None:
        self.saved: list[Checkpoint] = []

    async def load(self, batch_id: UUID, ordinal: int) -> Checkpoint | None:
        return self.saved[-1] if self.saved else None

    async def save(self, lease_id: int, batch_id: UUID, ordinal: int, checkpoint: Checkpoint) -> bool:
        self.saved.append(checkpoint)
        return True

    async def advance(self, lease_id: int, batch_id: UUID, ordinal: int, done: int) -> bool:
        raise AssertionError


async def test_mending_goes_on_where_the_last_attempt_broke_off(
    reading: World, llm: FakeLLM, tmp_path: Path
) -> None:
    llm.script = Librarian()
    kept, processor = Kept(), get("parse")
    config, _ = validate_config(processor, {"mode": "agentic"})
    services = replace(reading.services, checkpoints=kept)
    path = torn(tmp_path, 4)
    given = processor.input_model.model_validate({"source": str(path), "source_type": "local"})
    context = Context(TENANT, UUID(int=1), 3, "item-3", 1, config, services, lease_id=1)
    whole = await output(reading, path, mode="agentic")
    calls = len(llm.requests)
    assert calls > 3

    llm.requests.clear()
    llm.misbehave("", "", "status:500")
    broken = await processor.run(given, context)
    assert isinstance(broken, Retry)
    assert broken.usage is not None
    assert len(broken.usage.calls) == 2
    assert (kept.saved[-1].stage, kept.saved[-1].done, kept.saved[-1].total) == ("MENDING", 2, calls)
    again = await processor.run(given, context)
    assert isinstance(again, Success)
    assert again.output == whole
    assert len(llm.requests) == 3 + calls - 2


# --- what is checked before a row exists ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processor", "config", "at"),
    [
        ("parse", {"mode": "slow"}, "/config/mode"),
        ("parse", {"first_page": 0}, "/config/first_page"),
        ("parse", {"first_page": 3, "last_page": 2}, "/config"),
        ("parse", {"max_pages": 10_001}, "/config/max_pages"),
        ("parse", {"tables": "html"}, "/config/tables"),
        ("parse", {"ocr": True}, "/config/ocr"),
        ("table_extraction", {"form": "xml"}, "/config/form"),
        ("table_extraction", {"min_rows": 0}, "/config/min_rows"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(processor: str, config: Any, at: str) -> None:
    assert [one.pointer for one in validate_config(get(processor), config)[1]] == [at]


def test_a_text_has_no_tables_to_extract() -> None:
    _, problems = validate(get("table_extraction"), [{"text": "a"}])
    assert [(one.pointer, one.code) for one in problems] == [("/requests/0", "no_file")]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"source": "https://example.com/a/The%20mill.pdf?x=1", "source_type": "url"}, "The mill.pdf"),
        ({"source": "https://example.com/", "source_type": "url"}, None),
        ({"source": "shelf/mill.docx", "source_type": "local"}, "mill.docx"),
        ({"source": "s3://bucket/mill.odt", "source_type": "s3"}, "mill.odt"),
        ({"source": "a", "source_type": "minio", "filename": "mill.epub"}, "mill.epub"),
        ({"text": "x", "filename": "x.md"}, "x.md"),
        ({"text": "x"}, None),
    ],
)
def test_an_item_has_the_name_of_its_file(given: dict[str, Any], name: str | None) -> None:
    for processor in ("parse", "tag", "pipeline"):
        [model], problems = validate(get(processor), [given])
        assert problems == []
        if processor != "pipeline":
            assert get(processor).item_name(model) == name
        assert documents.name_of(model) == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "keeps"),
    [
        (
            "The gar-\ndeners bring 20 sacks of grain.",
            "# The gardeners\n\nbring **20** sacks of grain.",
            True,
        ),
        ("Part Count Stone 2 Wheel 1", "| Part | Count |\n| --- | --- |\n| Stone | 2 |\n| Wheel | 1 |", True),
        ("The farmers bring 20 sacks of grain.", "The farmers bring 30 sacks of grain.", False),
        ("The farmers bring 20 sacks of grain.", "The farmers bring 20 sacks of grain to the mill.", False),
        ("The farmers bring 20 sacks of grain.", "The farmers bring 20 sacks.", False),
        ("水車が穀物を挽く。" * 5, "# 水車が穀物を挽く。\n" + "水車が穀物を挽く。" * 4, True),
        ("水車が穀物を挽く。" * 5, "水車が穀物を挽く。" * 2, False),
    ],
)
def test_what_counts_as_kept(before: str, after: str, keeps: bool) -> None:
    assert mending._keeps(before, after) is keeps
