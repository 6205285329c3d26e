"""XML of strangers as a tree: no entities, nothing fetched, depth and size bounded."""

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from gristmill.documents.limits import Limits
from gristmill.documents.refusal import Refused, too_complex

# In UTF-8 and the two forms of UTF-16. A declared entity is the only way to make much out of little here.
_ENTITY = re.compile(rb"<\0?!\0?E\0?N\0?T\0?I\0?T\0?Y")


def parsed(data: bytes, limits: Limits) -> Element:
    """Raises Refused: `document_broken` if it is not well-formed, `document_too_complex` past a limit."""
    if _ENTITY.search(data):
        raise too_complex("Its XML declares entities.")
    try:
        return _built(data, limits)
    except (ElementTree.ParseError, ValueError, LookupError, UnicodeError) as error:
        raise Refused("document_broken", "The document's XML is not well-formed.") from error


def _built(data: bytes, limits: Limits) -> Element:
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    depth = nodes = 0
    root: Element | None = None
    for start in range(0, len(data), 65536):
        parser.feed(data[start : start + 65536])
        for event, element in parser.read_events():
            if event == "end":
                depth -= 1
                continue
            root = element if root is None else root
            depth += 1
            nodes += 1
            if depth > limits.depth or nodes > limits.nodes:
                raise too_complex("Its XML is too deep or has too many elements.")
    parser.close()
    if root is None:
        raise Refused("document_broken", "The document's XML is empty.")
    return root


def local(element: Element) -> str:
    """The name without its namespace: Transitional and Strict Office files differ in nothing else."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Element, name: str, default: str = "") -> str:
    """By local name."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return value
    return default


def children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if local(child) == name)


def child(element: Element | None, *path: str) -> Element | None:
    """The first descendant along a path of local names."""
    for name in path:
        element = next(children(element, name), None) if element is not None else None
    return element


def descendants(element: Element, name: str) -> Iterator[Element]:
    return (found for found in element.iter() if local(found) == name)


def whole_number(text: str, default: int, least: int = 0, most: int = 1_000_000) -> int:
    """What a file says is a number, within bounds."""
    try:
        return min(max(int(text), least), most)
    except ValueError:
        return default
