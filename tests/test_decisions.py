"""What the decision records list is what the files say."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs/decisions/0006-dependencies-of-the-core.md").read_text(encoding="utf-8")


def _table(header: str) -> list[list[str]]:
    body = PAGE.split(f"| {header} |")[1].split("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if set(row[0]) - set("- ")]


def _package(requirement: str) -> str:
    found = re.match(r"[\w-]+(\[[\w,]+\])?", requirement)
    assert found is not None
    return found[0]


def test_every_dependency_of_the_core_has_its_reason() -> None:
    listed = _table("dependency | why it is in the core")
    assert [row[0] for row in listed] == [_package(one) for one in PROJECT["dependencies"]]
    assert all(len(row) == 2 and row[1] for row in listed)


def test_every_extra_is_listed_with_what_it_brings() -> None:
    brings = {row[0].strip("`"): row[1] for row in _table("extra | brings | for")}
    extras = {
        name: ", ".join(map(_package, needs)) for name, needs in PROJECT["optional-dependencies"].items()
    }
    assert brings == extras | {"all": "all of them"}


def test_requirements_are_pinned_by_hash_and_name_no_host() -> None:
    for name in ("requirements.txt", "requirements-service.txt", "requirements-tools.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        for entry in text.replace("\\\n", " ").splitlines():
            assert re.match(r"[\w.-]+(\[[\w,.-]+\])?==\S+ ", entry), entry
            assert " --hash=sha256:" in entry, entry


def test_numbers_of_decisions_are_used_once() -> None:
    numbers = [page.name[:4] for page in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert len(set(numbers)) == len(numbers)
    assert all(number.isdigit() for number in numbers)
