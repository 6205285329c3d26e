"""Word documents: headings, lists, tables, links, footnotes. Pages as Word laid them out last, where it says so.

Left out: headers and footers, comments, deleted text, pictures, the layout.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from gristmill.documents import archive
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.markup import attribute, child, children, descendants, local, whole_number
from gristmill.documents.office import Package, required
from gristmill.documents.source import Reading, Source
from gristmill.documents.word_styles import Numbering, Styles

_SKIPPED = frozenset(
    {"del", "moveFrom", "pPr", "rPr", "sdtPr", "tblPr", "tcPr", "trPr", "Fallback", "instrText", "delText"}
)
_BREAKS = frozenset({"br", "cr"})
_SIGNS = {"tab": "\t", "noBreakHyphen": "-", "softHyphen": "", "ptab": "\t"}


def read(source: Source) -> Reading:
    with archive.opened(source.file, source.limits) as opened:
        package = Package(opened, source.limits)
        part = package.main("word/document.xml")
        body = required(child(required(package.tree(part)), "body"))
        walk = _Walk(package, part, source.limits)
        walk.blocks(body)
        walk.notes()
        return Reading(walk.flow.pages(), package.properties())


class _Walk:
    def __init__(self, package: Package, part: str, limits: Limits) -> None:
        self.flow = Flow(limits)
        self._package = package
        self._part = part
        self._links = package.relations(part)
        self._styles = Styles(self._tree("styles"))
        self._numbering = Numbering(self._tree("numbering"))
        self._most_cells = limits.table_cells

    def _tree(self, kind: str) -> Element | None:
        targets = self._package.targets(self._part, kind)
        return self._package.tree(targets[0]) if targets else None

    def blocks(self, parent: Element) -> None:
        for element in parent:
            name = local(element)
            if name == "p":
                self._paragraph(element)
            elif name == "tbl":
                self.flow.table(self._rows(element))
            elif name not in _SKIPPED:
                self.blocks(element)

    def notes(self) -> None:
        for kind, mark in (("footnotes", "footnote"), ("endnotes", "endnote")):
            tree = self._tree(kind)
            for note in children(tree, mark) if tree is not None else ():
                text = "".join(self._inline(note)).strip()
                if text and attribute(note, "type", "normal") == "normal":
                    self.flow.paragraph(f"[^{mark[0]}{attribute(note, 'id')}]: {text}")

    def _paragraph(self, paragraph: Element) -> None:
        before, after = _page_breaks(paragraph)
        if before:
            self.flow.next_page()
        plain = "".join(self._inline(paragraph))
        self._block(paragraph, "".join(self._inline(paragraph, marked=True)), plain)
        for box in descendants(paragraph, "txbxContent"):
            if not _in_fallback(paragraph, box):
                self.blocks(box)
        if after:
            self.flow.next_page()

    def _block(self, paragraph: Element, markdown: str, plain: str) -> None:
        properties = child(paragraph, "pPr")
        style = self._styles.of(properties)
        if style.heading:
            self.flow.heading(style.heading, plain)
            return
        number = self._numbering.marker(properties, style)
        if number is not None:
            self.flow.item(number[0], number[1], markdown, plain)
        else:
            self.flow.paragraph(markdown, plain)

    def _inline(self, parent: Element, *, marked: bool = False) -> Iterator[str]:
        """The text of runs. `marked`: with the signs of Markdown for bold, italic and links."""
        for element in parent:
            name = local(element)
            if name in ("t", "oMath"):
                yield (
                    element.text or ""
                    if name == "t"
                    else "".join(each.text or "" for each in descendants(element, "t"))
                )
            elif name in _SIGNS:
                yield _SIGNS[name]
            elif name in _BREAKS:
                yield "" if attribute(element, "type") == "page" else "\n"
            elif name in ("footnoteReference", "endnoteReference"):
                yield f"[^{name[0]}{attribute(element, 'id')}]"
            elif name == "hyperlink" and marked:
                yield self._link(element)
            elif name == "r" and marked:
                yield _emphasised(element, "".join(self._inline(element)))
            elif name not in _SKIPPED and name != "txbxContent":
                yield from self._inline(element, marked=marked)

    def _link(self, element: Element) -> str:
        text = "".join(self._inline(element)).strip()
        address = self._links.get(attribute(element, "id"), "")
        return (
            f"[{text}]({address})"
            if text and address.startswith(("http://", "https://", "mailto:"))
            else text
        )

    def _rows(self, table: Element) -> list[list[str]]:
        """A merged cell's text stands in its first cell, the others are empty."""
        rows: list[list[str]] = []
        for row in _rows_of(table):
            cells: list[str] = []
            for cell in _cells_of(row):
                properties = child(cell, "tcPr")
                merge = child(properties, "vMerge")
                continued = merge is not None and attribute(merge, "val", "continue") != "restart"
                cells.append("" if continued else self._cell_text(cell))
                span = child(properties, "gridSpan")
                cells += [""] * (
                    whole_number(attribute(span, "val"), 1, 1, 1000) - 1 if span is not None else 0
                )
            rows.append(cells)
        return rows

    def _cell_text(self, cell: Element) -> str:
        return "\n".join(
            text for text in ("".join(self._inline(each)).strip() for each in descendants(cell, "p")) if text
        )


def _rows_of(table: Element) -> Iterator[Element]:
    for element in table:
        if local(element) == "tr":
            yield element
        elif local(element) in ("sdt", "sdtContent", "customXml", "ins"):
            yield from _rows_of(element)


def _cells_of(row: Element) -> Iterator[Element]:
    for element in row:
        if local(element) == "tc":
            yield element
        elif local(element) in ("sdt", "sdtContent", "customXml", "ins"):
            yield from _cells_of(element)


def _emphasised(run: Element, text: str) -> str:
    properties = child(run, "rPr")
    if properties is None or not text.strip() or "\n" in text:
        return text
    signs = ("**" if _on(properties, "b") else "") + ("*" if _on(properties, "i") else "")
    bare = text.strip()
    at = text.index(bare)
    return f"{text[:at]}{signs}{bare}{signs}{text[at + len(bare) :]}" if signs else text


def _on(properties: Element, name: str) -> bool:
    found = child(properties, name)
    return found is not None and attribute(found, "val", "1") not in ("0", "false", "off")


def _page_breaks(paragraph: Element) -> tuple[bool, bool]:
    """Whether a new page begins before this paragraph, and whether one does within it: that shows after it."""
    seen_text, before, within = False, child(paragraph, "pPr", "pageBreakBefore") is not None, False
    for element in paragraph.iter():
        name = local(element)
        if name == "t" and (element.text or "").strip():
            seen_text = True
        elif name == "lastRenderedPageBreak" or (name == "br" and attribute(element, "type") == "page"):
            before, within = before or not seen_text, within or seen_text
    return before, within


def _in_fallback(paragraph: Element, box: Element) -> bool:
    """Word writes a text box twice, once for readers of old."""
    return any(box in list(fallback.iter()) for fallback in descendants(paragraph, "Fallback"))
