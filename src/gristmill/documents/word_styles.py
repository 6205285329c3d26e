"""Which paragraphs of a Word document are headings, and which are items of a list."""

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from gristmill.documents.markup import attribute, child, children, whole_number

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_MOST_LEVELS = 9


@dataclass(frozen=True, slots=True)
class Style:
    heading: int = 0  # 0: none
    list_id: str = ""
    list_level: int = 0


class Styles:
    def __init__(self, tree: Element | None) -> None:
        elements = (
            {attribute(each, "styleId"): each for each in children(tree, "style")} if tree is not None else {}
        )
        self._styles = {style_id: _resolved(elements, style_id) for style_id in elements}

    def of(self, properties: Element | None) -> Style:
        named = child(properties, "pStyle")
        style = self._styles.get(attribute(named, "val"), Style()) if named is not None else Style()
        own = _outline(properties)
        return Style(own, style.list_id, style.list_level) if own else style


def _resolved(elements: dict[str, Element], style_id: str) -> Style:
    """Along `basedOn`, the nearest word counts. A name says something about its own style only."""
    element = elements[style_id]
    heading, list_id, level = _named_heading(element), "", 0
    for _ in range(20):
        heading = heading or _outline(child(element, "pPr"))
        if not list_id and (numbers := child(element, "pPr", "numPr")) is not None:
            list_id, level = _list(numbers)
        based = child(element, "basedOn")
        parent = elements.get(attribute(based, "val")) if based is not None else None
        if parent is None:
            break
        element = parent
    return Style(heading, list_id, level)


def _named_heading(element: Element) -> int:
    name = child(element, "name")
    said = attribute(name, "val") if name is not None else ""
    if said.lower() == "title":
        return 1
    found = _HEADING.fullmatch(said)
    return int(found[1]) if found else 0


def _outline(properties: Element | None) -> int:
    """The heading's level, 0 for body text."""
    outline = child(properties, "outlineLvl")
    level = whole_number(attribute(outline, "val"), 9) if outline is not None else 9
    return level + 1 if level < _MOST_LEVELS else 0


def _list(numbers: Element) -> tuple[str, int]:
    found, level = child(numbers, "numId"), child(numbers, "ilvl")
    list_id = attribute(found, "val") if found is not None else ""
    return list_id, whole_number(attribute(level, "val"), 0, 0, 8) if level is not None else 0


class Numbering:
    """Counts as Word does, level by level: its numbers are not in the file."""

    def __init__(self, tree: Element | None) -> None:
        self._bullets: dict[tuple[str, int], bool] = {}
        self._counts: dict[str, list[int]] = {}
        if tree is None:
            return
        abstract = {attribute(each, "abstractNumId"): each for each in children(tree, "abstractNum")}
        for number in children(tree, "num"):
            link = child(number, "abstractNumId")
            for level in (
                children(abstract.get(attribute(link, "val"), number), "lvl") if link is not None else ()
            ):
                form = child(level, "numFmt")
                key = attribute(number, "numId"), whole_number(attribute(level, "ilvl"), 0, 0, 8)
                self._bullets[key] = form is not None and attribute(form, "val") in ("bullet", "none")

    def marker(self, properties: Element | None, style: Style) -> tuple[int, str] | None:
        """(depth, "-" or "3."), or None if the paragraph is no item."""
        numbers = child(properties, "numPr")
        list_id, level = _list(numbers) if numbers is not None else (style.list_id, style.list_level)
        if list_id in ("", "0"):
            return None
        if self._bullets.get((list_id, level), True):
            return level, "-"
        counts = self._counts.setdefault(list_id, [0] * _MOST_LEVELS)
        counts[level] += 1
        counts[level + 1 :] = [0] * (_MOST_LEVELS - level - 1)
        return level, f"{counts[level]}."
