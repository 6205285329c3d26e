"""The two programs of the published documentation, with their three constants filled in and nothing else changed.

Seed 004, rules 1, 2, 16 and 18, as its own clients depend on them.
"""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from stranger import Mill, Stranger

FOLDER = Path(__file__).parent / "seed_004"


def _filled_in(program: str, constants: dict[str, str]) -> str:
    text = (FOLDER / program).read_text()
    for placeholder, value in constants.items():
        assert text.count(placeholder) == 1
        text = text.replace(placeholder, value)
    return text


async def _run(*command: str) -> str:
    """What it prints; it must end by itself, and well."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0
    return output.decode()


async def test_the_programs_of_the_documentation_run_unchanged(
    mill: Mill, stranger: Stranger, tmp_path: Path
) -> None:
    constants = {
        "your-api-key": stranger.key,
        "https://api.codeer.ai/api/v1": f"{mill.url}/api/v1",
        "your-agent-id": await stranger.agent(),
    }
    node = shutil.which("node")
    interpreters = {"program.py": sys.executable, "program.mjs": node}
    running = []
    for name, interpreter in interpreters.items():
        if interpreter:
            (tmp_path / name).write_text(_filled_in(name, constants))
            running.append(_run(interpreter, str(tmp_path / name)))
    for output in await asyncio.gather(*running):  # at once, because each sleeps for five seconds
        _is_as_documented(output)
    if not node:
        pytest.skip("the Python program ran; the other one needs node")


def _is_as_documented(output: str) -> None:
    created, *polls, last = re.findall(
        r"^(?:Created batch: [0-9a-f-]{36}|Batch status: \w+)$", output, re.MULTILINE
    )
    assert created.startswith("Created")
    assert set(polls) <= {"Batch status: in_progress"}
    assert last == "Batch status: completed"
    _, _, results = output.partition(f"{last}\n")
    assert results == "".join(f"req-{n}: success\n Response: You said: Question {n}...\n" for n in range(10))
