"""Text, Markdown, JSON, XML: what is read as it stands."""

import json
import re
from xml.etree.ElementTree import Element

from gristmill.documents import markdown, markup
from gristmill.documents.document import Page, Table
from gristmill.documents.encoding import decoded
from gristmill.documents.flow import Flow
from gristmill.documents.refusal import Refused
from gristmill.documents.source import Reading, Source, single

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_ENTRY = re.compile(r"^([A-Za-z_][\w-]*):[ \t]*(\S.*)$", re.MULTILINE)


def text(source: Source) -> Reading:
    """A form feed ends a page."""
    parts = decoded(source.data()).split("\f")
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    if len(parts) > source.limits.pages:
        parts = ["\n".join(parts)]
    pages = tuple(Page(number, part.strip("\n"), part.strip("\n")) for number, part in enumerate(parts, 1))
    return Reading(pages)


def md(source: Source) -> Reading:
    body = decoded(source.data())
    metadata: dict[str, str] = {}
    if front := _FRONT_MATTER.match(body):
        metadata = {key.lower(): value.strip("'\" ") for key, value in _ENTRY.findall(front[1])[:50]}
        body = body[front.end() :]
    tables = tuple(Table(1, rows) for rows in markdown.tables(body, source.limits))
    return Reading((Page(1, markdown.plain(body), body.strip("\n"), tables),), metadata)


def json_text(source: Source) -> Reading:
    """A file that only calls itself JSON is text."""
    body = decoded(source.data()).strip()
    try:
        json.loads(body)
    except ValueError:
        return single(body)
    return single(body, _fenced(source, body, "json"))


def json_lines(source: Source) -> Reading:
    body = decoded(source.data()).strip()
    return single(body, _fenced(source, body, "json"))


def xml(source: Source) -> Reading:
    data = source.data()
    root = markup.parsed(data, source.limits)
    words = "\n".join(line for line in map(_words, root.iter()) if line)
    if not words:
        raise Refused("empty_document")
    return single(words, _fenced(source, decoded(data, _declared(data)), "xml"), {"root": markup.local(root)})


def _words(element: Element) -> str:
    """An element's own text and what follows it."""
    return " ".join(f"{element.text or ''} {element.tail or ''}".split())


def _declared(data: bytes) -> str | None:
    found = re.match(rb"""[^>]{0,200}?encoding=["']([\w.-]+)["']""", data)
    return found[1].decode("ascii") if found else None


def _fenced(source: Source, body: str, language: str) -> str:
    flow = Flow(source.limits)
    flow.code(body, language)
    return flow.pages()[0].markdown
