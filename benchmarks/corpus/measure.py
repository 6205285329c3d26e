"""Reads the corpus, kind by kind, with our readers and with markitdown, and prints the table of docs/documents.md.

CPU seconds, not wall time: the machine may be busy. Peak memory is that of the child, with the libraries it shares.
"Words" is the share of the other's words, as a bag, that is in one's own text: it says nothing about their order.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.corpus.fetch import CORPUS, FILES
from gristmill.documents import ParserPool, Refused

_PEER = "markitdown[all]==0.1.9"
_WORD = re.compile(r"\w+")


@dataclass
class Row:
    """Of one kind of file."""

    files: int = 0
    failed: int = 0
    pages: int = 0
    tables: int = 0
    cpu: float = 0.0
    peak: int = 0
    texts: list[str] = field(default_factory=list)


def main() -> None:
    paths = sorted(FILES.iterdir())
    ours, refusals = asyncio.run(_ours(paths))
    theirs = _theirs(paths)
    print(
        f"{len(paths)} documents; {os.cpu_count()} cores, Python {sys.version.split()[0]}; beside {_PEER}\n"
    )
    print(
        "| kind | files | pages | pages/s | peak MB | tables | words | markitdown: failed | pages/s | peak MB | tables | words |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for kind, row in ours.items():
        print(_line(kind, row, theirs[kind]))
    for refusal in refusals:
        print(refusal)


async def _ours(paths: list[Path]) -> tuple[dict[str, Row], list[str]]:
    rows: dict[str, Row] = {}
    refusals: list[str] = []
    async with ParserPool(1) as pool:
        for path in paths:
            row = rows.setdefault(path.suffix[1:], Row())
            row.files += 1
            try:
                document, usage = await pool.measure(path, path.name)
            except Refused as refused:
                row.failed += 1
                row.texts.append("")
                refusals.append(f"refused: {path.name}: {refused.code}")
                continue
            row.pages += len(document.pages)
            row.tables += len(document.tables)
            row.cpu += usage.seconds
            row.peak = max(row.peak, usage.peak_bytes)
            row.texts.append(document.markdown)
    return dict(sorted(rows.items())), refusals


def _theirs(paths: list[Path]) -> dict[str, Row]:
    run = subprocess.run(
        [_peer_python(), Path(__file__).with_name("beside.py")],
        input="\n".join(map(str, paths)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    rows: dict[str, Row] = {}
    for path, line in zip(paths, run.stdout.splitlines(), strict=True):
        row, found = rows.setdefault(path.suffix[1:], Row()), json.loads(line)
        row.files += 1
        row.failed += not found["ok"]
        row.cpu += found["cpu"]
        row.peak = max(row.peak, found["peak"])
        row.tables += len(
            re.findall(r"^\|?(?: *:?-{3,}:? *\|)+ *(?::?-{3,}:?)? *$", found["text"], re.MULTILINE)
        )
        row.texts.append(found["text"])
    return rows


def _peer_python() -> Path:
    python = CORPUS / "markitdown" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", CORPUS / "markitdown"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", _PEER], check=True)
    return python


def _line(kind: str, ours: Row, theirs: Row) -> str:
    kept, found = _share(theirs.texts, ours.texts), _share(ours.texts, theirs.texts)
    own = f"{ours.files} | {ours.pages} | {ours.pages / ours.cpu:.0f} | {ours.peak / 1e6:.0f} | {ours.tables} | {kept}"
    speed = f"{ours.pages / theirs.cpu:.0f}" if theirs.cpu else "–"
    return f"| {kind} | {own} | {theirs.failed} | {speed} | {theirs.peak / 1e6:.0f} | {theirs.tables} | {found} |"


def _share(wanted: list[str], had: list[str]) -> str:
    """Over the files that both have read."""
    common = total = 0
    for one, other in zip(wanted, had, strict=True):
        if one and other:
            words, there = (Counter(_WORD.findall(text.lower())) for text in (one, other))
            common += (words & there).total()
            total += words.total()
    return f"{common / total:.3f}" if total else "–"
