"""Markdown to plain text, and the tables in it."""

import re
from collections.abc import Iterator

from gristmill.documents.flow import rectangle
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import too_complex

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"^ {0,3}\|?(?: *:?-+:? *\|)+ *(?::?-+:? *)?$")
_CELL = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$")
_IMAGE = re.compile(r"!\[([^\]\n]{0,1000})\]\([^()\s]{0,4000}(?:\s+\"[^\"\n]{0,1000}\")?\)")
_LINK = re.compile(
    r"\[([^\[\]\n]{1,1000})\]\([^()\s]{0,4000}(?:\([^()\s]{0,1000}\)[^()\s]{0,1000})?(?:\s+\"[^\"\n]{0,1000}\")?\)"
)
_STRONG = re.compile(r"(\*{1,3}|_{2,3})(?=\S)([^*_\n]{1,1000}?)(?<=\S)\1")
_CODE = re.compile(r"`([^`\n]{1,1000})`")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>~])")

Rows = tuple[tuple[str, ...], ...]


def tables(text: str, limits: Limits) -> list[Rows]:
    found = [rectangle(rows) for rows in _blocks(text)]
    if sum(len(rows) * len(rows[0]) for rows in found if rows) > limits.table_cells:
        raise too_complex(f"Its tables have more than {limits.table_cells:,} cells.")
    return [rows for rows in found if rows]


def plain(text: str) -> str:
    """Without the signs: headings and paragraphs as lines, cells apart by tabs."""
    return "\n".join(_plain_line(line, code) for line, code in _lines(text) if line is not None).strip("\n")


def _blocks(text: str) -> Iterator[list[list[str]]]:
    above, rows = "", None
    for line, code in _lines(text, keep_rules=True):
        if rows is not None and line and not code and _CELL.search(line):
            rows.append(_cells(line))
            continue
        if rows is not None:
            yield rows
            rows = None
        if line and not code and _RULE.match(line) and _CELL.search(above):
            rows = [_cells(above)]
        above = "" if code else line or ""
    if rows is not None:
        yield rows


def _lines(text: str, *, keep_rules: bool = False) -> Iterator[tuple[str | None, bool]]:
    """Each line, and whether it stands in a fence. None for what has no text: fences, the rule of a table."""
    fence = ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or (mark[1].startswith(fence) and not line.strip(" `~"))):
            fence = "" if fence else mark[1]
            yield None, True
        elif not fence and not keep_rules and "|" in line and _RULE.match(line):
            yield None, False
        else:
            yield line, bool(fence)


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [inline(cell.strip().replace("<br>", "\n")) for cell in _CELL.split(inner)]


def _plain_line(line: str | None, code: bool) -> str:
    if code or not line:
        return line or ""
    if line.lstrip().startswith("|") and line.rstrip().endswith("|"):
        return "\t".join(_cells(line))
    heading = _HEADING.match(line)
    return inline(heading[1] if heading else line)


def inline(text: str) -> str:
    for pattern in (_IMAGE, _LINK):
        text = pattern.sub(r"\1", text)
    text = _STRONG.sub(r"\2", text)
    return _ESCAPE.sub(r"\1", _CODE.sub(r"\1", text))
