"""A fleet on a database of its own, and what it has to do; a test for each seed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.receiver import Receiver


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("first_seed")
        metafunc.parametrize("seed", range(first, first + metafunc.config.getoption("seeds")))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For the logs of all processes and for the ledger."""
    return tmp_path
