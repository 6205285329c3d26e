"""Checks beside this process: they say what would be said here, and nothing depends on that process."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gristmill import processors
from gristmill.api.schemas import BatchOptions
from gristmill.domain import marks
from gristmill.domain.errors import Problem
from gristmill.intake import beside, draft, problems
from gristmill.intake.beside import Beside
from gristmill.intake.draft import Draft, read_requests

FIELDS = {f"{number:x}": number for number in range(marks.MANY + 1)}
Ask = Callable[[], list[Problem] | None]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """In the place of that of this process."""
    own = Beside()
    for module in (draft, problems):
        monkeypatch.setattr(module, "beside", own)
    yield own
    own.close()


def ask(of: Beside) -> list[Problem] | None:
    order = {"processor": "noop", "allow_private": False, "each": 2}
    return of.problems(order, orjson.dumps({"text": 1, "b": 2, "c": 3}))


FOUND = [
    Problem("/requests/0/text", "string_type", "Input should be a valid string"),
    Problem("/requests/0/b", "extra_forbidden", "Extra inputs are not permitted"),
]


def ended(process_id: int) -> bool:
    """Whether it ends within a while; it need not be ours."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("only Linux says when a process of others ends")
    try:
        handle = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        return bool(poll.poll(60_000))
    finally:
        os.close(handle)


@pytest.mark.parametrize("each", [None, 3])
@pytest.mark.parametrize(
    ("processor", "inputs"),
    [
        ("noop", [{"text": "a"}, {"text": "a", **FIELDS}, {"text": 1}, {"text": 2, **FIELDS}]),
        ("anything", [FIELDS, [[]] * marks.MANY, "a"]),
        ("agent_message", [{"message": "a" * 70_000, **FIELDS}, {"message": "a," * 70_000}]),
        ("parse", [{"file_id": "x", **FIELDS}, {"source": "http://127.0.0.1/", **FIELDS}]),
    ],
)
def test_what_is_said_of_an_input_is_what_would_be_said_here(
    asked: Beside, monkeypatch: pytest.MonkeyPatch, processor: str, inputs: list[Any], each: int | None
) -> None:
    def found() -> Draft:
        given = [{"custom_id": str(n), "input": one} for n, one in enumerate(inputs)]
        found = Draft()
        read_requests(orjson.loads(orjson.dumps(given)), processors.get(processor), found, each=each)
        return found

    there = found()
    assert asked.process_id is not None
    monkeypatch.setattr(marks, "many", lambda text: False)
    here = found()
    assert here.problems or processor == "anything"
    assert (there.problems, there.texts, there.inputs) == (here.problems, here.texts, here.inputs)


def test_what_is_said_of_the_options_is_what_would_be_said_here(
    asked: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"processor": 5, "priority": "high", **FIELDS}
    there = problems.check(BatchOptions, value)
    assert asked.process_id is not None
    monkeypatch.setattr(marks, "many", lambda text: False)
    assert there == problems.check(BatchOptions, value)
    assert len(there[1]) == problems.MAX_PROBLEMS


def test_a_process_that_was_killed_is_replaced(asked: Beside) -> None:
    assert ask(asked) == FOUND
    first = asked.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert ask(asked) == FOUND
    assert asked.process_id not in (None, first)


def test_a_process_that_hangs_is_given_up(asked: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it was asked is found out here."""
    assert ask(asked) == FOUND
    first = asked.process_id
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(beside, "MOST_SECONDS", 0.01)
    found = Draft()
    read_requests([{"custom_id": "a", "input": {"text": 1, **FIELDS}}], processors.get("noop"), found)
    assert found.problems[0] == Problem("/requests/0/input/text", FOUND[0].code, FOUND[0].detail)
    assert asked.process_id is None
    assert ended(first)


@pytest.mark.parametrize("interrupted", [MemoryError, KeyboardInterrupt])
def test_nobody_reads_what_somebody_else_was_told(
    asked: Beside, monkeypatch: pytest.MonkeyPatch, interrupted: type[BaseException]
) -> None:
    """Where it is interrupted between an order and its answer, that answer is nobody's."""

    def interrupt(*_: object) -> bytes:
        raise interrupted

    assert ask(asked) == FOUND
    with monkeypatch.context() as broken, contextlib.suppress(KeyboardInterrupt):
        broken.setattr(beside, "_read", interrupt)
        assert ask(asked) is None
    monkeypatch.setattr(asked, "_not_before", 0.0)
    order = {"processor": "noop", "allow_private": False, "each": None}
    assert asked.problems(order, b'{"text":"good"}') == []


@pytest.mark.parametrize(
    "program",
    [
        "print('this is no answer, but it is long enough for one')",
        "import os; size = 2 << 20; os.write(1, size.to_bytes(8, 'big')); "
        "print('null'.ljust(size), end='', flush=True); os.read(0, 1 << 20)",
    ],
)
def test_one_that_does_not_work_is_told_of_and_left_alone_for_a_while(
    asked: Beside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, program: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(beside, "_BOOT", program)
        assert ask(asked) is None
    assert [one.message for one in caplog.records] == ["checks beside do not work"]
    assert ask(asked) is None
    assert asked.process_id is None
    monkeypatch.setattr(asked, "_not_before", 0.0)
    assert ask(asked) == FOUND


def test_it_has_none_of_the_settings(asked: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_SECRET_KEY", "of nobody's business")
    assert ask(asked) == FOUND
    if not Path("/proc/self/environ").exists():
        pytest.skip("looks into /proc")
    assert b"GRISTMILL_" not in Path(f"/proc/{asked.process_id}/environ").read_bytes()


def test_what_the_process_cannot_say_is_none(asked: Beside) -> None:
    assert asked.problems({"processor": "unknown", "allow_private": False, "each": None}, b"1") is None
    assert ask(asked) == FOUND


async def test_an_event_loop_never_waits_for_it(asked: Beside) -> None:
    assert ask(asked) is None
    assert asked.process_id is None
    assert await asyncio.to_thread(ask, asked) == FOUND


def test_it_ends_when_it_has_nothing_to_do_and_comes_back_when_it_has() -> None:
    of = Beside(idle_seconds=0.01)
    assert ask(of) == FOUND
    first = of.process_id
    assert first is not None
    assert ended(first)
    assert ask(of) == FOUND
    of.close()


def test_it_ends_with_whoever_started_it_even_if_that_is_killed() -> None:
    program = (
        f"import sys, signal, os; sys.path[:] = {sys.path!r}; from gristmill.intake.beside import beside; "
        "beside.problems({'processor': 'noop', 'allow_private': False, 'each': 1}, b'1'); "
        "print(beside.process_id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert ended(int(done.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_its_memory_is_bounded(asked: Beside) -> None:
    ask(asked)
    limits = Path(f"/proc/{asked.process_id}/limits").read_text()
    [line] = [one for one in limits.splitlines() if one.startswith("Max data size")]
    assert line.split()[3:5] == [str(beside.MEMORY_BYTES)] * 2
