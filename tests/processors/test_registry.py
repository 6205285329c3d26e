"""Processors of installed packages are found by their entry points; broken ones harm nobody."""

import logging
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from fakes.world import World
from gristmill.domain.outcomes import Success
from gristmill.processors import get, registry, validate
from gristmill.processors.registry import GROUP, collect

PLUGIN = """
from typing import Callable
from pydantic import BaseModel
from gristmill.processors.base import Processor

class Nothing(BaseModel): ...

class Made(Processor[Nothing, Nothing]):
    input_model = Nothing
    config_model = Nothing
    async def run(self, given, context): ...

class Good(Made): name = "good"
class Thief(Made): name = "completion"
class Loud(Made): name = "Loud Name"
class Nameless(Made): ...
class Modelless(Made):
    name = "modelless"
    input_model = dict
class Abstract(Processor[Nothing, Nothing]):
    name = "abstract"
    input_model = config_model = Nothing
class Sync(Made):
    name = "sync"
    def run(self, given, context): ...
class Unspeakable(Made):
    name = "unspeakable"
    class input_model(BaseModel):
        thing: Callable[[], int]
class NeedsMore(Made):
    name = "needs_more"
    def __init__(self, more): ...
text = "no class"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path, as an installer would leave it."""
    (tmp_path / "strange_mill.py").write_text(PLUGIN)
    (tmp_path / "broken_mill.py").write_text("secret = 'hunter2'\nraise RuntimeError(secret)")
    info = tmp_path / "strange_mill-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-mill\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return info / "entry_points.txt"


def offer(entry_file: Path, *values: str) -> None:
    lines = "".join(f"point{number} = {value}\n" for number, value in enumerate(values))
    entry_file.write_text(f"[{GROUP}]\n{lines}")


def test_our_own_and_the_out_of_tree_package_are_found() -> None:
    assert {"agent_message", "completion", "noop", "scripted"} <= registry().keys()
    assert type(get("noop")).__module__ == "gristmill_testmill"


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        get("nothing")


def test_every_processor_shows_its_models_as_json_schema() -> None:
    for processor in registry().values():
        assert processor.description
        shown = [model.model_json_schema() for model in (processor.input_model, processor.config_model)]
        # `anything` of the tests takes any JSON: its schema has no type.
        assert [one.get("type") for one in shown] == [
            None if processor.name == "anything" else "object",
            "object",
        ]


async def test_a_processor_of_another_package_checks_and_runs(world: World) -> None:
    noop = get("noop")
    [_, bad], [problem] = validate(noop, [{"text": "good"}, {"text": 3}], inside="/input")
    assert bad is None
    assert problem.pointer == "/requests/1/input/text"
    outcome = await world.run(noop, {"text": "good"}, noop.config_model())
    assert outcome == Success(output={"text": "good"})


def test_an_installed_processor_is_found(installed: Path) -> None:
    offer(installed, "strange_mill:Good")
    assert "good" in collect(entry_points(group=GROUP))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken_mill:Any", "RuntimeError"),
        ("missing_mill:Any", "ModuleNotFoundError"),
        ("strange_mill:Missing", "AttributeError"),
        ("strange_mill:text", "TypeError"),
        ("strange_mill:Abstract", "TypeError"),
        ("strange_mill:NeedsMore", "TypeError"),
        ("strange_mill:Nothing", "it is no Processor"),
        ("strange_mill:Nameless", "its name must match"),
        ("strange_mill:Loud", "its name must match"),
        ("strange_mill:Modelless", "its input_model is no pydantic model"),
        ("strange_mill:Unspeakable", "PydanticInvalidForJsonSchema"),
        ("strange_mill:Sync", "its run is no async function"),
    ],
)
def test_a_broken_one_is_a_warning_and_the_rest_works(
    installed: Path, value: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    offer(installed, value, "strange_mill:Good")
    found = collect(entry_points(group=GROUP))
    assert {"agent_message", "completion", "good"} <= found.keys()
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert value in warning.getMessage()
    assert reason in warning.getMessage()
    assert "hunter2" not in caplog.text


def test_our_own_processor_wins_over_one_of_the_same_name(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(installed, "strange_mill:Thief")
    found = collect(entry_points(group=GROUP))
    assert type(found["completion"]).__module__ == "gristmill.processors.completion"
    assert "the name is taken" in caplog.text


def test_of_two_strangers_the_first_by_name_wins_whatever_the_order() -> None:
    points = [
        EntryPoint("b", "gristmill_testmill:Noop", GROUP),
        EntryPoint("a", "gristmill_testmill:Noop", GROUP),
    ]
    assert len(collect(points)) == len(collect(reversed(points))) == 1
