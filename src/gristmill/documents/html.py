"""HTML. Scripts, styles, navigation and pictures are left out."""

import re
from typing import Any

import html_to_markdown

from gristmill.documents import markdown
from gristmill.documents.document import Page, Table
from gristmill.documents.encoding import decoded
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import too_complex
from gristmill.documents.source import Reading, Source

_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def read(source: Source) -> Reading:
    data = source.data()
    charset = _CHARSET.search(data[:4096])
    return from_text(decoded(data, charset[1].decode("ascii") if charset else None), source.limits)


def from_text(text: str, limits: Limits, number: int = 1) -> Reading:
    """Also for e-mail and the parts of an EPUB."""
    told = html_to_markdown.convert(
        text, html_to_markdown.ConversionOptions(extract_metadata=True, skip_images=True)
    )
    body = _without_front_matter(told.content or "")
    if not body and any("depth" in str(warning.kind) for warning in told.warnings):
        raise too_complex("Its HTML is nested too deeply.")
    tables = tuple(Table(number, rows) for rows in markdown.tables(body, limits))
    plain = html_to_markdown.convert(
        text,
        html_to_markdown.ConversionOptions(output_format="plain", extract_metadata=False, skip_images=True),
    )
    page = Page(number, (plain.content or "").strip("\n"), body, tables)
    return Reading((page,), _metadata(told.metadata.document))


def _without_front_matter(content: str) -> str:
    if content.startswith("---\n"):
        _, _, content = content[4:].partition("\n---\n")
    return content.strip("\n")


def _metadata(document: Any) -> dict[str, str]:
    found = {name: getattr(document, name) for name in ("title", "author", "description", "language")}
    found["keywords"] = ", ".join(document.keywords)
    return {name: " ".join(value.split()) for name, value in found.items() if value}
