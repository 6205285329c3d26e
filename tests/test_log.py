"""What a line of the log looks like, and what cannot get into one."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gristmill.db import Database
from gristmill.log import bind, configure

log = logging.getLogger("gristmill.tests")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("gristmill")
    before = (list(root.handlers), root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_caller_sent_stays_on_its_line(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\nb\r\x1b[31m\u2028\u202e\x85\ud800"
    configure(form, "info")
    log.info("refused %s", hostile, extra={"custom_id": hostile})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "custom_id" in line


def test_json_carries_bound_and_extra_fields_and_the_exception(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    try:
        raise ValueError("broken")
    except ValueError:
        with bind(batch_id="b1"), bind(worker="w"):
            log.exception("failed", extra={"level": "cannot be overwritten", "attempt": 2})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["message"], line["batch_id"], line["worker"]) == (
        "error",
        "failed",
        "b1",
        "w",
    )
    assert line["attempt"] == 2
    assert line["exception"].endswith("ValueError: broken")


async def test_bound_fields_belong_to_one_task(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "info")
    both_bound = asyncio.Barrier(2)

    async def work(name: str) -> None:
        with bind(task=name):
            await both_bound.wait()
            log.info("from %s", name)

    await asyncio.gather(work("first"), work("second"))
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(maxsplit=2)[2] for line in lines) == [
        "from first task=first",
        "from second task=second",
    ]


def test_levels_are_ours_and_other_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "debug")
    logging.getLogger("uvicorn.error").info("chatter")
    log.debug("detail")
    assert "chatter" not in (shown := capsys.readouterr().err)
    assert "detail" in shown


async def test_a_trace_shows_where_and_what_kind_but_neither_parameters_nor_rows(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("text", "info")
    async with database.engine.connect() as connection:
        await connection.execute(text("CREATE TEMP TABLE patient (word text, age int CHECK (age > 0))"))
        row = {"word": "a diagnosis", "age": -1}
        with pytest.raises(DBAPIError, match="SQL parameters hidden") as caught:
            await connection.execute(text("INSERT INTO patient VALUES (:word, :age)"), row)
    log.error("unhandled error", exc_info=caught.value)
    logged = capsys.readouterr().err
    assert "CheckViolationError" in logged
    assert "sqlalchemy.exc.IntegrityError" in logged
    assert "test_log.py" in logged
    assert "diagnosis" not in logged


def test_a_trace_begins_with_the_cause_and_goes_into_groups(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    try:
        try:
            raise ExceptionGroup("two", [ValueError("first"), KeyError("second")])
        except ExceptionGroup as group:
            raise RuntimeError("third") from group
    except RuntimeError:
        log.exception("failed")
    trace = json.loads(capsys.readouterr().err)["exception"]
    order = [trace.index(said) for said in ("first", "second", "ExceptionGroup: two", "RuntimeError: third")]
    assert order == sorted(order)
