"""Documents that no one here wrote: what the packages that are installed for the tests bring along."""

import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pypandoc

_SMALLEST, _LARGEST = 2_000, 400_000  # bytes


def of_kind(suffix: str, most: int = 3) -> list[Path]:
    """Up to `most` of them with that suffix, of different packages, by name."""
    found: list[Path] = []
    for distribution in sorted(distributions(), key=lambda one: one.name.lower()):
        for file in sorted(distribution.files or [], key=str):
            path = Path(str(distribution.locate_file(file)))
            if file.suffix == suffix and path.is_file() and _SMALLEST <= path.stat().st_size <= _LARGEST:
                found.append(path)
                break
    return found[:most]


def template(path: Path) -> Path:
    """The document that pandoc ships as a pattern for its own, written to `path`: a docx, odt or pptx by people who
    made it with an office suite."""
    command = [pypandoc.get_pandoc_path(), "--print-default-data-file", f"reference{path.suffix}"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path
