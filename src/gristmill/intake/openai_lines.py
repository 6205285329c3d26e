"""JSON Lines as OpenAI's Batch API takes them: `{"custom_id", "method", "url", "body"}` in each."""

from collections.abc import Iterator
from pathlib import Path

from gristmill.intake import jsonl
from gristmill.intake.rows import Row, unreadable


def rows(path: Path, url: str) -> Iterator[Row]:
    """As requests of ours: the body is the input. `url` is the one that all lines must have."""
    for row in jsonl.rows(path):
        yield row if row.request is None else _request(row, url)


def _request(row: Row, url: str) -> Row:
    given = row.request or {}
    if given.get("method") != "POST":
        return unreadable(row.line, "invalid_method", "the method must be POST", "method")
    if given.get("url") != url:
        return unreadable(row.line, "url_mismatch", f"the url must be that of the batch, {url}", "url")
    if not isinstance(given.get("body"), dict):
        return unreadable(row.line, "invalid_body", "the body must be an object", "body")
    request = {"input": given["body"]}
    if "custom_id" in given:
        request["custom_id"] = given["custom_id"]
    return Row(row.line, request, None, row.size)
