"""Presentations: a page to a slide, with its title, text, tables and speaker's notes.

Left out: charts, pictures, SmartArt, the layout. Order is that of the file, which is that of the tab key.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from gristmill.documents import archive
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.markup import attribute, child, children, descendants, local, whole_number
from gristmill.documents.office import Package, required
from gristmill.documents.source import Reading, Source

_TITLES = frozenset({"title", "ctrTitle"})
_CHROME = frozenset({"dt", "ftr", "hdr", "sldNum", "sldImg"})


def read(source: Source) -> Reading:
    with archive.opened(source.file, source.limits) as opened:
        package = Package(opened, source.limits)
        part = package.main("ppt/presentation.xml")
        slides = list(_slides(package, part))
        flow = _read_slides(package, slides, source.limits)
        return Reading(flow.pages()[: max(len(slides), 1)], package.properties())


def _slides(package: Package, part: str) -> Iterator[str]:
    """In order of showing."""
    links = package.relations(part)
    names = child(required(package.tree(part)), "sldIdLst")
    for each in children(names, "sldId") if names is not None else ():
        for key, value in each.attrib.items():
            if key.endswith("}id") and value in links:
                yield links[value]


def _read_slides(package: Package, slides: list[str], limits: Limits) -> Flow:
    flow = Flow(limits)
    for slide in slides:
        tree = package.tree(slide)
        if tree is not None:
            _shapes(flow, tree)
            for notes in package.targets(slide, "notesSlide"):
                _notes(flow, package.tree(notes))
        flow.next_page()
    return flow


def _shapes(flow: Flow, parent: Element) -> None:
    for element in parent:
        name = local(element)
        if name == "sp":
            _shape(flow, element)
        elif name == "tbl":
            flow.table([list(_cells(row)) for row in children(element, "tr")])
        elif name != "Fallback":
            _shapes(flow, element)


def _shape(flow: Flow, shape: Element) -> None:
    holder = child(shape, "nvSpPr", "nvPr", "ph")
    kind = attribute(holder, "type", "body") if holder is not None else ""
    if kind in _CHROME:
        return
    for paragraph in _paragraphs(shape):
        text = _text(paragraph)
        if kind in _TITLES:
            flow.heading(1, text)
        elif kind in ("body", "obj") and _bulleted(paragraph):
            level = child(paragraph, "pPr")
            depth = whole_number(attribute(level, "lvl"), 0, 0, 8) if level is not None else 0
            flow.item(depth, "-", text)
        else:
            flow.paragraph(text)


def _notes(flow: Flow, tree: Element | None) -> None:
    lines = [
        _text(paragraph)
        for shape in (descendants(tree, "sp") if tree is not None else ())
        if _is_notes_body(shape)
        for paragraph in _paragraphs(shape)
    ]
    text = "\n".join(line for line in lines if line.strip())
    if text:
        flow.heading(2, "Notes")
        flow.paragraph(text)


def _is_notes_body(shape: Element) -> bool:
    holder = child(shape, "nvSpPr", "nvPr", "ph")
    return holder is not None and attribute(holder, "type") == "body"


def _paragraphs(shape: Element) -> Iterator[Element]:
    body = child(shape, "txBody")
    return children(body, "p") if body is not None else iter(())


def _bulleted(paragraph: Element) -> bool:
    properties = child(paragraph, "pPr")
    return properties is None or child(properties, "buNone") is None


def _text(paragraph: Element) -> str:
    parts = []
    for element in paragraph.iter():
        name = local(element)
        if name == "t":
            parts.append(element.text or "")
        elif name == "br":
            parts.append("\n")
    return "".join(parts)


def _cells(row: Element) -> Iterator[str]:
    """Cells that a merge covers are there, and empty."""
    for cell in children(row, "tc"):
        covered = attribute(cell, "hMerge") in ("1", "true") or attribute(cell, "vMerge") in ("1", "true")
        yield "" if covered else "\n".join(_text(each) for each in _paragraphs(cell))
