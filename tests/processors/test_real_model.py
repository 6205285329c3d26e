"""An agent on a real model of toy size, which runs on this machine."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from fakes.world import World
from gristmill.cli.local_model import NAME, LocalModel
from gristmill.domain.outcomes import Success, Turn
from gristmill.processors import get, output_schema, validate_config
from gristmill.processors.agent_message import AgentMessageConfig, AgentSnapshot
from gristmill.settings import Settings
from gristmill.upstream.client import Upstream

AGENT = UUID("018f0000-0000-7000-8000-00000000000a")


@pytest.fixture
def model(tmp_path: Path) -> Iterator[LocalModel]:
    with LocalModel(tmp_path / "model.log") as started:
        yield started


@pytest.mark.llm
async def test_a_real_model_answers_and_is_counted_as_it_counts_itself(
    world: World, model: LocalModel
) -> None:
    agent = AgentSnapshot(
        agent_id=AGENT,
        version=1,
        name="toy",
        instructions="You answer in one short sentence.",
        parameters={"max_tokens": 24, "temperature": 0},
    )
    config = AgentMessageConfig(agent_id=AGENT, agents={AGENT: agent})
    world.chats[4] = [Turn("My name is Ada.", "Hello Ada.", 4)]
    settings = Settings(llm_base_url=model.url, llm_model=NAME)
    async with Upstream(settings) as upstream:
        services = replace(world.services, upstream=upstream)
        questions = [
            {"message": "What is the capital of France?"},
            {"message": "Name a colour."},
            {"message": "What is my name?", "history_id": 4},
        ]
        outcomes = await asyncio.gather(
            *(world.run(get("agent_message"), question, config, services) for question in questions)
        )
    answered = [outcome for outcome in outcomes if isinstance(outcome, Success)]
    assert len(answered) == 3
    assert len({outcome.content for outcome in answered}) == 3
    used = [outcome.usage for outcome in answered if outcome.usage]
    counted = sum(usage.completion_tokens for usage in used)
    while model.tokens() < counted:  # it counts a moment after it has answered
        await asyncio.sleep(0.05)
    assert model.tokens() == counted
    assert all(usage.prompt_tokens > 10 for usage in used)


NOTICE = """# Opening hours

The library in Ghent is open from nine to five on weekdays. It was founded by Maria Peeters in 1921.
On Saturdays the reading room closes at noon. Readers may borrow up to six books at a time.
"""
CARD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 80},
        "town": {"type": "string", "maxLength": 40},
        "founded": {"type": "integer", "minimum": 0, "maximum": 9999},
        "kind": {"enum": ["library", "museum", "school"]},
    },
    "required": ["title", "town", "founded", "kind"],
    "additionalProperties": False,
}


@pytest.mark.llm
async def test_a_real_model_held_to_a_schema_gives_json_that_validates_and_passages_that_are_looked_for(
    world: World, model: LocalModel
) -> None:
    """That what comes back validates, and what is not in the text is dropped: not that the toy is right."""
    settings = Settings(llm_base_url=model.url, llm_model=NAME)
    parameters = {"temperature": 0, "max_tokens": 400}
    extract, _ = validate_config(get("extract"), {"schema": CARD, "parameters": parameters})
    questions, _ = validate_config(get("qa_generation"), {"pairs_per_chunk": 1, "parameters": parameters})
    async with Upstream(settings) as upstream:
        services = replace(world.services, upstream=upstream)
        card = await world.run(get("extract"), {"text": NOTICE}, extract, services)
        asked = await world.run(get("qa_generation"), {"text": NOTICE}, questions, services)
    assert isinstance(card, Success)
    assert output_schema.of(CARD).flaws(card.output["data"]) == []
    assert card.output["asked_again"] == 0  # the grammar alone keeps it to the schema
    assert isinstance(asked, Success)
    output = asked.output
    assert output["chunks_asked"] == 1
    assert output["pairs_given"] == len(output["pairs"]) + sum(output["dropped"].values())
    assert all(NOTICE[one["start"] : one["end"]] == one["passage"] for one in output["pairs"])
    assert card.usage is not None
    assert len(card.usage.calls) == 1
    assert card.usage.prompt_tokens > 50
