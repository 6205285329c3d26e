"""Official clients of several majors and languages, each in an environment of its own, lead their batches through a life."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from served import Served

LIVES = Path(__file__).parent / "lives"
ROOT = Path(__file__).parents[2]
PINNED: Mapping[str, Mapping[str, list[str]]] = json.loads((LIVES.parent / "versions.json").read_text())


def pinned(language: str) -> list[tuple[str, str]]:
    return [(name, version) for name, versions in PINNED[language].items() for version in versions]


def folder(name: str, version: str, language: str) -> Path:
    return ROOT / ".sdk" / f"{language}-{name.strip('@').replace('/', '-')}-{version}"


def install(*command: str | Path, cwd: Path) -> None:
    subprocess.run(command, check=True, cwd=cwd, timeout=300, capture_output=True, text=True)


def life(name: str, suffix: str) -> Path:
    return LIVES / f"{name.strip('@').partition('-')[0]}_life{suffix}"


async def lived(mill: Served, *command: str | Path, cwd: Path) -> None:
    """Runs it with a tenant of its own; prints what it says of itself."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *map(str, command), mill.url, await mill.key(), cwd=cwd, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(300):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, errors.decode()
    print(output.decode().strip())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "version"), pinned("python"))
async def test_every_major_of_the_python_clients_leads_batches_through_a_life(
    mill: Served, name: str, version: str
) -> None:
    here = folder(name, version, "python")
    python = here / "bin" / "python"
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not (here / "installed").exists():
        here.parent.mkdir(exist_ok=True)
        install(uv, "venv", "--quiet", "--allow-existing", here, cwd=ROOT)
        install(uv, "pip", "install", "--quiet", "--python", python, f"{name}=={version}", cwd=ROOT)
        (here / "installed").touch()
    await lived(mill, python, life(name, ".py"), cwd=here)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "version"), pinned("node"))
async def test_the_newest_javascript_clients_lead_batches_through_a_life(
    mill: Served, name: str, version: str
) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no Node here")
    here = folder(name, version, "node")
    if not (here / "installed").exists():
        here.mkdir(parents=True, exist_ok=True)
        (here / "package.json").write_text("{}")
        known = [npm, "view", f"{name}@{version}", "version"]
        if subprocess.run(known, timeout=60, capture_output=True, cwd=here).returncode:
            pytest.skip("no registry of npm packages can be reached")
        install(npm, "install", "--silent", "--no-audit", "--no-fund", f"{name}@{version}", cwd=here)
        (here / "installed").touch()
    program = here / life(name, ".mjs").name
    program.write_text(life(name, ".mjs").read_text())  # imports are looked up from where a module lies
    await lived(mill, node, program, cwd=here)
