"""The process beside: reads orders, each with a JSON text, and answers with what is wrong with it.

An order and its text, and every answer, have their size in front. The answer is a list of problems, or null where this
process cannot say: then it is found out by whoever asked.
"""

import contextlib
import importlib
import os
import resource
import select
import signal
from typing import Any

import orjson

from gristmill.intake import problems
from gristmill.intake.beside import MEMORY_BYTES, SIZE_BYTES
from gristmill.processors import registry, validation

_IN = 0
_Found = list[tuple[str, str, str]]


def main(answers: int, idle_seconds: float) -> None:
    """Until nobody is there any more, or nothing has come for a while. `answers`: the descriptor for them."""
    for number in (signal.SIGINT, signal.SIGTERM):  # those of the service, which then ends us
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    while select.select([_IN], [], [], idle_seconds)[0]:
        order, text = _part(), _part()
        if order is None or text is None:
            return
        found = orjson.dumps(answer(orjson.loads(order), text))
        _write(answers, len(found).to_bytes(SIZE_BYTES, "big") + found)


def answer(order: dict[str, Any], text: bytes) -> _Found | None:
    """Of `{"processor", …}` what is wrong with it as an input, as the first of its list; of `{"model"}`, as that model."""
    try:
        return _of_input(order, text) if "processor" in order else _of_model(order["model"], text)
    except Exception:  # whoever asked finds the same, and says so
        return None


def _of_input(order: dict[str, Any], text: bytes) -> _Found:
    processor = registry()[order["processor"]]
    _, found = validation.validate(
        processor,
        [orjson.loads(text)],
        texts=[text.decode()],
        allow_private=order["allow_private"],
        each=order["each"],
        keep=False,
    )
    return [(one.pointer, one.code, one.detail) for one in found]


def _of_model(name: str, text: bytes) -> _Found:
    module, _, model = name.partition(":")
    _, found = problems.check_text(getattr(importlib.import_module(module), model), text)
    return [(one.pointer, one.code, one.detail) for one in found]


def _part() -> bytes | None:
    size = _read(SIZE_BYTES)
    return None if size is None else _read(int.from_bytes(size, "big"))


def _read(size: int) -> bytes | None:
    """None: the pipe was closed."""
    data = bytearray()
    while len(data) < size:
        piece = os.read(_IN, size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
