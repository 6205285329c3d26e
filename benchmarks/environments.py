"""What peers run in: an environment of its own for each, made on demand of the hashed requirements in `peer/`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PEER = Path(__file__).parent / "peer"
MADE = PEER / ".venv"


class Missing(Exception):
    """Something that cannot be installed here; the text says what."""


def python(name: str, least: tuple[int, int] = (3, 11)) -> Path:
    """The interpreter of an environment with what `requirements/NAME.txt` says. Raises Missing."""
    requirements = PEER / "requirements" / f"{name}.txt"
    folder = MADE / name
    found = folder / "bin" / "python"
    if not _made(folder, requirements):
        base = _interpreter(least)
        for command in _installing(base, folder, found, requirements):
            _run(command)
        shutil.copy(requirements, folder)
    return found


def node(name: str) -> Path:
    """A folder with the packages of `NAME/package-lock.json` and the program beside it. Raises Missing."""
    if shutil.which("npm") is None:
        raise Missing("needs Node.js and npm")
    folder = MADE / name
    lock = PEER / name / "package-lock.json"
    if not _made(folder, lock):
        folder.mkdir(parents=True)
        for file in (PEER / name).iterdir():
            shutil.copy(file, folder)
        try:
            _run(
                [
                    "npm",
                    "ci",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    "--silent",
                    "--prefix",
                    str(folder),
                ]
            )
        except Missing:
            shutil.rmtree(folder)
            raise
    shutil.copy(PEER / name / "noop.mjs", folder)
    return folder


def _made(folder: Path, of: Path) -> bool:
    """Else it is gone afterwards, so that it can be made."""
    mark = folder / of.name
    if mark.exists() and mark.read_text() == of.read_text():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _interpreter(least: tuple[int, int]) -> str:
    if sys.version_info >= least:
        return sys.executable
    for candidate in _candidates(least):
        told = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
        )
        if told.returncode == 0 and tuple(map(int, told.stdout.split())) >= least:
            return candidate
    raise Missing(f"needs Python {least[0]}.{least[1]} or newer")


def _candidates(least: tuple[int, int]) -> Iterator[str]:
    for minor in range(least[1], least[1] + 5):
        yield from filter(None, [shutil.which(f"python3.{minor}")])
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/*/bin/python3")))


def _installing(base: str, folder: Path, python: Path, requirements: Path) -> list[list[str]]:
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return [[base, "-m", "venv", str(folder)], [*pip, "-r", str(requirements)]]
    install = [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)]
    return [[uv, "venv", "--quiet", "--python", base, str(folder)], install]


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, "UV_LINK_MODE": "copy"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Missing(f"{Path(command[0]).name} failed: {done.stderr.strip()[-300:]}")
