"""Documents that no one here wrote: what the packages that are installed for the tests bring along."""

from importlib.metadata import distributions
from pathlib import Path

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
