"""The documents name files, functions and pages that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gristmill"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_PATH = re.compile(r"(?<![\w/.])((?:[\w-]+/)*[\w-]+\.(?:py|toml|yml|ini|md))\b(?![\w/])")
_NAME = re.compile(r"(?<![\w/.-])((?:[a-z_]+/)+[a-z_]+)\.([A-Za-z_]\w*(?:\.\w+)*)")
_IN_PACKAGE = re.compile(r"`(\w+)\.([A-Z]\w*(?:\.\w+)*)`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
_MADE_UP = {"wordmill.py"}  # the worked example of docs/processors.md
_SUFFIXES = {"py", "toml", "yml", "ini", "md", "jsonl", "csv", "json", "svg"}


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_links_lead_somewhere(page: Path) -> None:
    gone = [link for link in _LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert gone == []


def test_files_named_exist(page: Path) -> None:
    named = set(_PATH.findall(page.read_text("utf-8"))) - _MADE_UP
    folders = (ROOT, SOURCE, page.parent, ROOT / "tests")
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


def test_functions_and_classes_named_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    named = {pair for pair in _NAME.findall(text) if pair[1] not in _SUFFIXES}
    named |= {pair for pair in _IN_PACKAGE.findall(text) if _file(pair[0]) is not None}
    assert [f"{module}.{name}" for module, name in sorted(named) if not _has(module, name)] == []


def test_the_checks_above_see_what_is_wrong() -> None:
    assert _has("store/claims", "claim")
    assert _has("worker/items", "Items.step")
    assert _has("worker", "Worker.start")
    assert not _has("store/spans", "no_such_function")
    assert not _has("worker/items", "Items.no_such_method")
    assert not _has("store/no_such_file", "claim")


def _file(module: str) -> Path | None:
    candidates = (SOURCE / f"{module}.py", SOURCE / module / "__init__.py", ROOT / f"{module}.py")
    return next((file for file in candidates if file.exists()), None)


def _has(module: str, name: str) -> bool:
    file = _file(module)
    if file is None:
        return False
    inside: ast.AST | None = ast.parse(file.read_text("utf-8"))
    for part in name.split("."):
        inside = next((node for found, node in _members(inside) if found == part), None) if inside else None
    return inside is not None


def _members(inside: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in getattr(inside, "body", []):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
