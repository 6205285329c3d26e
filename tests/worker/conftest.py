import pytest

from mill import Scripted


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()
