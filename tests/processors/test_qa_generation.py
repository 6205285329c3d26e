"""Questions and answers with the passages they rest on."""

from collections import Counter
from dataclasses import replace
from typing import Any

import orjson
import pytest

from fakes.llm import FakeLLM
from fakes.script import INVENTED, Script
from fakes.wire import Request
from fakes.world import Kept, World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import get, validate, validate_config

SECTIONS = 40
LONG = "\n\n".join(
    f"# Section {n}\n\nThe value of section {n} is exactly {n * n}.\nIts colour, too, is known: it is grey number {n}. "
    f"And the third thing about {n} is that it ends here."
    for n in range(SECTIONS)
)
CONFIG = {"max_characters": 300, "new_after": 300, "max_pairs": 1000}


async def ask(world: World, text: str, kept: Kept | None = None, **config: Any) -> Outcome:
    made, problems = validate_config(get("qa_generation"), CONFIG | config)
    assert problems == []
    services = replace(world.services, checkpoints=kept)
    return await world.run(get("qa_generation"), {"text": text}, made, services)


def scripted(llm: FakeLLM, *answers: list[dict[str, str]]) -> None:
    """The pairs of one call after the other."""
    waiting = list(answers)

    def script(request: Request) -> tuple[int, dict[str, Any]]:
        message = {"content": orjson.dumps({"pairs": waiting.pop(0)}).decode()}
        return 200, {"model": "m", "choices": [{"message": message}], "usage": {"prompt_tokens": 1}}

    llm.script = script


def pair(question: str, passage: str, answer: str = "Yes.") -> dict[str, str]:
    return {"question": question, "answer": answer, "passage": passage}


async def test_each_pair_has_its_passage_as_the_document_has_it_and_its_place(
    world: World, llm: FakeLLM
) -> None:
    text = "# Owls\n\nOwls hunt at\nnight. They see well, and they hear even better than that."
    scripted(llm, [pair("When do owls hunt?", " Owls hunt at night. ", "At night.")])
    outcome = await ask(world, text)
    assert isinstance(outcome, Success)
    [found] = outcome.output.pop("pairs")
    assert found == {
        "question": "When do owls hunt?",
        "answer": "At night.",
        "passage": "Owls hunt at\nnight.",
        "page": None,
        "start": 8,
        "end": 27,
        "heading": "Owls",
        "chunk": 0,
    }
    assert text[8:27] == "Owls hunt at\nnight."
    assert outcome.output == {
        "document": {"filename": None, "language": None, "pages": None},
        "chunks": 1,
        "chunks_asked": 1,
        "asked_again": 0,
        "pairs_given": 1,
        "dropped": {"incomplete": 0, "passage_not_found": 0, "duplicate": 0, "beyond_limit": 0},
    }
    told = llm.requests[0].body["messages"][0]["content"]
    assert "up to 3 pairs" in told
    assert "heading: Owls" in told
    assert "the language of the text" in told


async def test_invented_passages_are_dropped_and_bad_json_is_asked_for_again_and_all_of_it_counted(
    world: World, llm: FakeLLM
) -> None:
    llm.script = script = Script(seed=7, invalid=0.1, invented=0.1)
    kept = Kept()
    outcome = await ask(world, LONG, kept)
    assert isinstance(outcome, Success)
    output, told = outcome.output, script.told
    assert min(told["invalid"], told["invented"]) >= 3
    assert (output["chunks"], output["chunks_asked"]) == (SECTIONS, SECTIONS)
    assert output["asked_again"] == told["invalid"]
    assert len(llm.requests) == SECTIONS + told["invalid"]
    assert output["pairs_given"] == told["pairs"] == 3 * SECTIONS
    assert output["dropped"] == {
        "incomplete": 0,
        "passage_not_found": told["invented"],
        "duplicate": 0,
        "beyond_limit": 0,
    }
    assert len(output["pairs"]) == told["pairs"] - told["invented"]
    for found in output["pairs"]:
        assert LONG[found["start"] : found["end"]] == found["passage"] != INVENTED
        assert found["heading"] == f"Section {found['chunk']}"
        assert LONG.rindex("# Section", 0, found["start"]) == LONG.index(f"# {found['heading']}\n")
    assert outcome.usage is not None
    assert outcome.usage.as_json()["total_calls"] == SECTIONS + told["invalid"]
    assert [(one.stage, one.done, one.total) for one in kept.saves] == [
        ("ASKING", n, SECTIONS) for n in range(SECTIONS + 1)
    ]


async def test_what_says_nothing_or_says_it_twice_or_too_little_is_dropped(
    world: World, llm: FakeLLM
) -> None:
    passage = "The value of section 0 is exactly 0."
    scripted(
        llm,
        [
            pair("What is the value?", passage),
            pair(" what is  the VALUE", passage),
            pair("", passage),
            pair("Is it?", passage, " "),
            pair("And?", ""),
            pair("Too short?", "is"),
            pair("Not there?", INVENTED),
            pair("What else?", passage),
            pair("And what else?", passage),
        ],
    )
    outcome = await ask(world, LONG[:200], pairs_per_chunk=9, max_pairs=2)
    assert isinstance(outcome, Success)
    assert [found["question"] for found in outcome.output["pairs"]] == ["What is the value?", "What else?"]
    assert outcome.output["dropped"] == {
        "incomplete": 3,
        "passage_not_found": 2,
        "duplicate": 1,
        "beyond_limit": 1,
    }


async def test_a_passage_is_looked_for_in_its_own_chunk_first(world: World, llm: FakeLLM) -> None:
    same = "This sentence is in both of the sections."
    text = f"# One\n\n{same} One. {'x ' * 60}\n\n# Two\n\n{same} Two. {'y ' * 60}"
    scripted(llm, [pair("One?", same)], [pair("Two?", same), pair("Elsewhere?", "sections. One. x x")])
    outcome = await ask(world, text)
    assert isinstance(outcome, Success)
    assert [found["start"] for found in outcome.output["pairs"]] == [
        text.index(same),
        text.rindex(same),
        text.index("sections. One"),
    ]


async def test_a_document_that_could_make_more_pairs_is_asked_about_all_over(
    world: World, llm: FakeLLM
) -> None:
    llm.script = Script()
    outcome = await ask(world, LONG, max_pairs=12)
    assert isinstance(outcome, Success)
    assert (outcome.output["chunks"], outcome.output["chunks_asked"]) == (SECTIONS, 4)
    assert sorted({found["chunk"] for found in outcome.output["pairs"]}) == [0, 10, 20, 30]
    assert len(outcome.output["pairs"]) == 12


async def test_chunks_that_are_hardly_more_than_a_heading_are_left_out(world: World, llm: FakeLLM) -> None:
    llm.script = Script()
    outcome = await ask(world, "# A\n\nShort.\n\n# B\n\n" + "This is a sentence that says enough. " * 3)
    assert isinstance(outcome, Success)
    assert (outcome.output["chunks"], outcome.output["chunks_asked"]) == (2, 1)
    outcome = await ask(world, "# A\n\nShort.")
    assert isinstance(outcome, Success)
    assert outcome.output["chunks_asked"] == 1


async def test_the_language_may_be_another(world: World, llm: FakeLLM) -> None:
    llm.script = Script()
    await ask(world, LONG[:200], language="de", instructions="For an examination.")
    told = llm.requests[0].body["messages"][0]["content"]
    assert "the language with the code de" in told
    assert "For an examination." in told


async def test_an_attempt_goes_on_behind_the_chunks_that_were_answered(world: World, llm: FakeLLM) -> None:
    kept, script = Kept(), Script(seed=2, invented=0.1)
    calls = Counter[str]()

    def failing(request: Request) -> tuple[int, dict[str, Any]]:
        calls[request.said] += 1
        fails = request.said.startswith("# Section 5\n") and calls[request.said] == 1
        return (500, {"error": {"message": "no"}}) if fails else script(request)

    llm.script = failing
    outcome = await ask(world, LONG, kept)
    assert isinstance(outcome, Retry)
    assert outcome.usage is not None
    assert len(outcome.usage.calls) == 5
    outcome = await ask(world, LONG, kept)
    assert isinstance(outcome, Success)
    assert max(calls.values()) == 2
    assert calls.total() == SECTIONS + 1
    assert outcome.output["pairs_given"] == 3 * SECTIONS
    assert outcome.output["dropped"]["passage_not_found"] == script.told["invented"] > 0
    assert outcome.usage is not None
    assert len(outcome.usage.calls) == SECTIONS - 5


async def test_nothing_to_read_is_a_failure_with_advice(world: World) -> None:
    outcome = await ask(world, " ")
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type) == (400, "no_text")


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({"pairs_per_chunk": 0}, "/config/pairs_per_chunk"),
        ({"pairs_per_chunk": 21}, "/config/pairs_per_chunk"),
        ({"max_pairs": 1001}, "/config/max_pairs"),
        ({"max_characters": 199}, "/config/max_characters"),
        ({"chunking_strategy": "random"}, "/config/chunking_strategy"),
        ({"language": ""}, "/config/language"),
        ({"last_page": 0}, "/config/last_page"),
        ({"schema": {}}, "/config/schema"),
    ],
)
def test_a_configuration_is_checked_before_a_row_exists(config: dict[str, Any], pointer: str) -> None:
    _, problems = validate_config(get("qa_generation"), config)
    assert [one.pointer for one in problems] == [pointer]


def test_the_preset_is_the_defaults() -> None:
    config, problems = validate_config(get("qa_generation"), get("qa_generation").presets["QA_DEFAULT"])
    assert problems == []
    assert config is not None
    assert (config.pairs_per_chunk, config.max_pairs) == (3, 100)


def test_tasks_find_an_item_by_the_name_of_its_file() -> None:
    [given], _ = validate(get("qa_generation"), [{"text": "a", "filename": "a.md"}])
    assert get("qa_generation").item_name(given) == "a.md"
