"""The cycle collector comes back to work, however many have kept it from it."""

import gc

import pytest

from gristmill.intake import cycles


def test_the_collector_works_again_after_the_last_of_those_who_want_to_be_left_alone() -> None:
    with cycles.left_alone():
        with cycles.left_alone():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(LookupError), cycles.left_alone():
        raise LookupError
    assert gc.isenabled()
