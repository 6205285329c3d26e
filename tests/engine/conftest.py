"""For the tests of the store."""

import pytest

import factories


@pytest.fixture(params=[False, True], ids=["step by step", "in one statement"])
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends comes in either way of `recording.record`."""
    monkeypatch.setattr(factories, "ALONE", request.param)
