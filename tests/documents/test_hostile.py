"""Documents made to hurt, and damaged ones: each is read or refused in time, and nobody else notices."""

import os
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from documents import bombs
from gristmill.documents import Document, ParserPool, Refused

_SECONDS = 30.0
_SLACK_SECONDS = 10.0  # for a busy machine
_MEMORY_BYTES = 50 * 1024 * 1024
# Of these the reader makes something: little text, or as much as is allowed.
_HARMLESS = {"wide.html", "deep tables.docx", "open links.md", "stars.md"}


@pytest.fixture(scope="module")
async def alone() -> AsyncIterator[ParserPool]:
    """One child at a time, as on a small machine."""
    async with ParserPool(1) as pool:
        yield pool


@pytest.mark.parametrize("name", bombs.BOMBS)
@pytest.mark.slow
async def test_a_bomb_is_refused_in_time_and_costs_the_service_no_memory(
    alone: ParserPool, tmp_path: Path, name: str
) -> None:
    path = bombs.write(name, tmp_path)
    before, started = _resident(), time.monotonic()
    code = await _code(alone, path)
    assert time.monotonic() - started < _SECONDS + _SLACK_SECONDS
    assert _resident() - before < _MEMORY_BYTES
    assert code in {"document_too_complex", "document_broken", "empty_document", "unsupported_type"} | (
        {None} if name in _HARMLESS else set()
    )


async def test_an_entity_never_brings_in_a_file(alone: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        await alone.parse(bombs.write("reads a file.docx", tmp_path), "a.docx")
    assert refused.value.code == "document_too_complex"
    assert "root" not in refused.value.message


_UNTOUCHED = {"scanned.pdf", "encrypted.pdf", "half-scanned.pdf"}


@pytest.mark.slow
async def test_200_damaged_documents_are_each_read_or_refused(
    pool: ParserPool, files: dict[str, Path], tmp_path: Path
) -> None:
    seed = int(os.environ.get("GRISTMILL_TEST_SEED", "20261125"))
    print("seed", seed)
    chance = random.Random(seed)
    originals = [path for name, path in sorted(files.items()) if name not in _UNTOUCHED]
    before = _resident()
    codes: dict[str | None, int] = {}
    for number in range(200):
        original = originals[number % len(originals)]
        path = tmp_path / f"damaged{original.suffix}"
        path.write_bytes(damaged(original.read_bytes(), chance))
        started = time.monotonic()
        code = await _code(pool, path)
        assert time.monotonic() - started < _SECONDS + _SLACK_SECONDS
        codes[code] = codes.get(code, 0) + 1
    assert _resident() - before < _MEMORY_BYTES
    assert set(codes) <= {
        None,
        "document_broken",
        "document_too_complex",
        "empty_document",
        "unsupported_type",
        "encrypted",
    }
    assert codes[None] > 20  # some damage is harmless, some is not
    assert sum(codes.values()) - codes[None] > 20


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Cut, with bytes changed, or with numbers changed, as the research's set of hostile files."""
    way = chance.randrange(4)
    if way == 0:
        return data[: chance.randrange(1, len(data))]
    changed = bytearray(data)
    if way == 1:
        for _ in range(chance.randrange(1, 50)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if way == 2:
        at, length = chance.randrange(len(data)), chance.randrange(1, 2000)
        return data[:at] + data[at + length :]
    return re.sub(rb"\d+", lambda found: _number(found[0], chance), data)


def _number(found: bytes, chance: random.Random) -> bytes:
    if chance.random() > 0.02:
        return found
    return chance.choice([b"0", b"-1", b"4294967296", b"99999999999999999999", found + b"0"])


async def _code(pool: ParserPool, path: Path) -> str | None:
    try:
        document = await pool.parse(path, path.name)
    except Refused as refused:
        return refused.code if refused.message and refused.suggestion else "not explained"
    return None if isinstance(document, Document) else "no document"


def _resident() -> int:
    resident: int = psutil.Process().memory_info().rss
    return resident
