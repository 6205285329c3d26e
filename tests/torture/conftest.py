"""A fleet on a database of its own, and what it has to do; a test for each seed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.receiver import Receiver


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("first_seed")
        metafunc.parametrize("seed", range(first, first + metafunc.config.getoption("seeds")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What has no short form of its own is left out without --long."""
    if config.getoption("long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For the logs of all processes and for the ledger."""
    return tmp_path


@pytest.fixture
def at_length(pytestconfig: pytest.Config) -> bool:
    """Whether it is to be shown at the figure that is promised; else a few seconds of it."""
    return bool(pytestconfig.getoption("long"))


@pytest.fixture
def scale(pytestconfig: pytest.Config) -> float:
    """Of what is promised, which part is to be shown at length."""
    return float(pytestconfig.getoption("scale"))
