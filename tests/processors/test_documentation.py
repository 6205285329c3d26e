"""docs/processors.md: its example runs, and its table names every error there is."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fakes.world import World
from gristmill.domain.outcomes import Failure, Success
from gristmill.processors import validate, validate_config
from gristmill.processors.registry import GROUP, collect

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "processors.md").read_text()


async def test_the_worked_example_works(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [value] = re.findall(r'word_count = "(.*?)"', PAGE)
    (tmp_path / "wordmill.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    processor = collect([EntryPoint("word_count", value, GROUP)])["word_count"]
    config, _ = validate_config(processor, {"shortest": 3})
    inputs, problems = validate(
        processor, [{"text": "to be or not to be"}, {"text": ""}, {}], inside="/input"
    )
    assert [problem.pointer for problem in problems] == ["/requests/2/input/text"]
    good, empty = [await world.run(processor, item.model_dump(), config) for item in inputs if item]
    assert good == Success(output={"words": 1})
    assert isinstance(empty, Failure)
    assert empty.error.type == "no_words"


def test_every_error_of_the_endpoint_is_in_the_table() -> None:
    sources = [ROOT / "src/gristmill/upstream/errors.py", ROOT / "src/gristmill/processors/conversation.py"]
    named = {
        word
        for source in sources
        for word in re.findall(r'"(upstream_\w+|empty_\w+|content_\w+)"', source.read_text())
    }
    table = set(re.findall(r"`((?:upstream|empty|content)_\w+)`", PAGE))
    assert named - {"content_filter"} == table  # that is a provider's word
