"""tag, with a model that answers carelessly."""

from pathlib import Path
from typing import Any

import pytest

from documents.installed import of_kind
from fakes.librarian import Librarian, most_frequent
from fakes.llm import FakeLLM
from fakes.world import World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import get, validate, validate_config
from gristmill.processors.tag import MIN_CHARACTERS, SHOWN_CHARACTERS

TEXT = (
    "The water mill grinds grain to flour. The miller keeps the water wheel, and the water keeps the miller. "
    * 2
)
Files = dict[str, Path]


async def run(world: World, given: dict[str, Any], **config: Any) -> Outcome:
    chosen, problems = validate_config(get("tag"), config)
    assert problems == []
    return await world.run(get("tag"), given, chosen)


async def tags(world: World, given: dict[str, Any], **config: Any) -> list[str]:
    outcome = await run(world, given, **config)
    assert isinstance(outcome, Success), outcome
    found: list[str] = outcome.output["tags"]
    assert outcome.content == ", ".join(found)
    return found


async def test_a_document_gets_the_model_s_tags_made_alike(reading: World, llm: FakeLLM) -> None:
    llm.script = Librarian()
    [path] = of_kind(".md", 1)
    given = {"source": str(path), "source_type": "local", "title": "Notices"}
    outcome = await run(reading, given)
    assert isinstance(outcome, Success)
    assert outcome.output["tags"] == most_frequent(llm.requests[0].said)[:8]
    assert outcome.output["title"] == "Notices"
    assert outcome.output["model"] == "default-model"
    assert outcome.usage is not None
    used = outcome.usage.prompt_tokens + outcome.usage.completion_tokens
    assert outcome.output["metadata"] == {
        "is_scanned": False,
        "extraction_method": "text_layer",
        "ocr_confidence": None,
        "page_count": 1,
        "pages_read": 1,
        "text_length": outcome.output["metadata"]["text_length"],
        "language": "en",
        "tokens_used": used,
    }
    assert outcome.output["metadata"]["text_length"] > MIN_CHARACTERS
    assert used > 0
    assert "Title: Notices" in llm.requests[0].said
    assert len(llm.requests[0].said) <= SHOWN_CHARACTERS


async def test_only_the_first_pages_are_read(reading: World, llm: FakeLLM, files: Files) -> None:
    llm.script = Librarian()
    given = {"source": str(files["typed.pdf"]), "source_type": "local"}
    first = await run(reading, given, num_pages=1)
    both = await run(reading, given, num_pages=2)
    assert isinstance(first, Success)
    assert isinstance(both, Success)
    shown = [request.said for request in llm.requests]
    assert ["last words about the mill" in one for one in shown] == [False, True]
    assert [one.output["metadata"]["pages_read"] for one in (first, both)] == [1, 2]
    assert [one.output["metadata"]["page_count"] for one in (first, both)] == [2, 2]


async def test_slides_behind_the_first_pages_are_left_out_too(
    reading: World, llm: FakeLLM, files: Files
) -> None:
    llm.script = Librarian()
    outcome = await run(reading, {"source": str(files["story.pptx"]), "source_type": "local"}, num_pages=2)
    assert isinstance(outcome, Success)
    assert "The old mill grinds grain" in llm.requests[0].said
    assert "last words about the mill" not in llm.requests[0].said
    assert (outcome.output["metadata"]["pages_read"], outcome.output["metadata"]["page_count"]) == (2, 4)


async def test_a_row_without_a_document_is_tagged_by_its_title_and_description(
    world: World, llm: FakeLLM
) -> None:
    llm.script = Librarian()
    given = {"title": "About the mill", "description": TEXT, "metadata": {"Ablage": "Regal 3"}}
    outcome = await run(world, given)
    assert isinstance(outcome, Success)
    assert outcome.output["metadata"]["extraction_method"] == "row"
    assert outcome.output["metadata"]["page_count"] is None
    assert llm.requests[0].said == f"About the mill\n\n{TEXT}"
    assert "Regal" not in str(llm.requests[0].body)


async def test_no_more_tags_than_asked_for_and_none_with_an_excluded_word(world: World, llm: FakeLLM) -> None:
    llm.script = Librarian()
    whole = await tags(world, {"text": TEXT}, num_tags=15)
    assert "water" in whole
    few = await tags(world, {"text": TEXT}, num_tags=3, exclusion_words=["WATER", "grain"])
    assert few == [tag for tag in whole if tag not in ("water", "grain")][:3]
    assert "WATER; grain" in llm.requests[-1].body["messages"][0]["content"]


async def test_the_language_of_the_text_is_kept(world: World, llm: FakeLLM) -> None:
    llm.script = Librarian()
    german = (
        "Die Mühle mahlt Körner zu Mehl. Die alte Mühle steht am Flüsschen, und die Körner kommen vom Feld."
    )
    assert (await tags(world, {"text": german}))[:2] == ["körner", "mühle"]
    assert "in the language of the text" in llm.requests[0].body["messages"][0]["content"]


@pytest.mark.parametrize(
    "given",
    [
        {"text": "x" * (MIN_CHARACTERS - 1)},
        {"text": " " * 500 + "short" + " " * 500, "description": TEXT},
        {"title": "Short", "description": "too."},
        {"title": "Only a title"},
    ],
)
async def test_too_little_text_fails_without_asking_the_model(
    world: World, llm: FakeLLM, given: dict[str, Any]
) -> None:
    outcome = await run(world, given)
    assert isinstance(outcome, Failure)
    assert (outcome.error.type, outcome.error.code) == ("too_little_text", 400)
    assert outcome.error.suggestion
    assert llm.requests == []


async def test_fifty_characters_are_enough(world: World, llm: FakeLLM) -> None:
    llm.script = Librarian()
    assert await tags(world, {"text": "grain " * 8 + "it"}) == ["grain"]


async def test_a_scan_fails_and_says_that_it_is_one(reading: World, llm: FakeLLM, files: Files) -> None:
    given = {"source": str(files["scanned.pdf"]), "source_type": "local", "description": TEXT}
    outcome = await run(reading, given)
    assert isinstance(outcome, Failure)
    assert outcome.error.type == "too_little_text"
    assert "scan" in outcome.error.message
    assert llm.requests == []


async def test_where_no_tag_is_left_another_attempt_is_asked_for(world: World, llm: FakeLLM) -> None:
    llm.script = Librarian()
    outcome = await run(world, {"text": "grain " * 20}, exclusion_words=["grain"])
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "no_tags"
    assert outcome.usage is not None


async def test_an_answer_that_is_no_json_is_asked_for_again_and_both_calls_count(
    world: World, llm: FakeLLM
) -> None:
    llm.script = Librarian(invalid=1.0)
    outcome = await run(world, {"text": TEXT})
    assert isinstance(outcome, Success)
    assert outcome.usage is not None
    assert len(outcome.usage.calls) == len(llm.requests) == 2


async def test_a_model_that_is_busy_makes_the_item_wait(world: World, llm: FakeLLM) -> None:
    llm.misbehave("status:429 retry-after=2")
    outcome = await run(world, {"text": TEXT})
    assert isinstance(outcome, Retry)
    assert outcome.waiting
    assert (outcome.delay_seconds or 0) >= 2


@pytest.mark.parametrize(
    ("config", "at"),
    [
        ({"num_pages": 0}, "/config/num_pages"),
        ({"num_pages": 11}, "/config/num_pages"),
        ({"num_tags": 2}, "/config/num_tags"),
        ({"num_tags": 16}, "/config/num_tags"),
        ({"exclusion_words": ["  "]}, "/config/exclusion_words/0"),
        ({"api_key": "sk-1"}, "/config/api_key"),
    ],
)
def test_what_seed_001_limits_is_limited(config: dict[str, Any], at: str) -> None:
    assert [one.pointer for one in validate_config(get("tag"), config)[1]] == [at]


def test_the_defaults_are_those_of_the_seed() -> None:
    for given in ({}, get("tag").presets["TAG_DEFAULT"]):
        config, _ = validate_config(get("tag"), given)
        assert config is not None
        assert config.model_dump(include={"num_pages", "num_tags"}) == {"num_pages": 3, "num_tags": 8}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "nothing_to_tag"),
        ({"description": ""}, "nothing_to_tag"),
        ({"metadata": {"a": "b"}}, "nothing_to_tag"),
        ({"text": "a", "source": "a", "source_type": "local"}, "one_document"),
        ({"source": "a"}, "source_type"),
        ({"source": "https://127.0.0.1/", "source_type": "url"}, "address_refused"),
    ],
)
def test_a_row_that_cannot_be_tagged_is_refused_before_it_is_stored(given: dict[str, Any], code: str) -> None:
    assert [one.code for one in validate(get("tag"), [given])[1]] == [code]


def test_an_item_is_named_by_its_file_or_its_title() -> None:
    rows = [{"title": "The mill", "source": "a/b.pdf", "source_type": "local"}, {"title": "The mill"}]
    models, _ = validate(get("tag"), rows)
    assert [get("tag").item_name(model) for model in models] == ["b.pdf", "The mill"]
