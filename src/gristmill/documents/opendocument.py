"""OpenDocument text and presentations. Left out: pictures, comments, deleted text, headers and footers, the layout."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from gristmill.documents import archive
from gristmill.documents.document import Page
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.markup import attribute, child, descendants, local, whole_number
from gristmill.documents.office import Package, required
from gristmill.documents.refusal import Refused
from gristmill.documents.source import Reading, Source

_SKIPPED = frozenset(
    {"tracked-changes", "annotation", "annotation-end", "forms", "sequence-decls", "image", "object"}
)
_MOST_REPEATS = 1000  # of a cell or row: beyond, it is a sheet's empty rest
_METADATA = {
    "title": "title", "creator": "author", "subject": "subject", "description": "description", "keyword": "keywords",
    "creation-date": "created", "date": "modified", "language": "language",
}  # fmt: skip


def read(source: Source) -> Reading:
    with archive.opened(source.file, source.limits) as opened:
        package = Package(opened, source.limits)
        _refuse_encrypted(package)
        content = required(package.tree("content.xml"))
        body = required(child(content, "body"))
        walk = _Walk(source.limits, _bulleted_lists(content))
        walk.blocks(body)
        return Reading(walk.pages(), _metadata(package.tree("meta.xml")))


def _refuse_encrypted(package: Package) -> None:
    manifest = package.tree("META-INF/manifest.xml")
    if manifest is not None and next(descendants(manifest, "encryption-data"), None) is not None:
        raise Refused("encrypted")


def _bulleted_lists(content: Element) -> frozenset[str]:
    """Names of list styles whose first level has a bullet."""
    return frozenset(
        attribute(style, "name")
        for style in descendants(content, "list-style")
        if child(style, "list-level-style-bullet") is not None
    )


def _metadata(tree: Element | None) -> dict[str, str]:
    meta = child(tree, "meta")
    found: dict[str, str] = {}
    for each in meta if meta is not None else ():
        name = _METADATA.get(local(each))
        if name and (each.text or "").strip():
            found[name] = f"{found[name]}, {each.text}" if name in found else (each.text or "").strip()
    return found


class _Walk:
    def __init__(self, limits: Limits, bulleted: frozenset[str]) -> None:
        self._flow = Flow(limits)
        self._bulleted = bulleted
        self._slides = 0

    def pages(self) -> tuple[Page, ...]:
        return self._flow.pages()[: self._slides or None]

    def blocks(self, parent: Element) -> None:
        for element in parent:
            name = local(element)
            if name == "h":
                self._flow.heading(whole_number(attribute(element, "outline-level"), 1, 1, 6), _text(element))
            elif name == "p" and attribute(element, "style-name") == "Title":
                self._flow.heading(1, _text(element))
            elif name == "p":
                self._paragraph(element)
            elif name == "list":
                self._list(element, 0, attribute(element, "style-name"))
            elif name == "table":
                self._flow.table(_rows(element))
            elif name == "page":
                self._slide(element)
            elif name not in _SKIPPED:
                self.blocks(element)

    def _slide(self, page: Element) -> None:
        self._slides += 1
        self.blocks(page)
        self._flow.next_page()

    def _paragraph(self, element: Element) -> None:
        if next(descendants(element, "soft-page-break"), None) is not None:
            self._flow.next_page()
        self._flow.paragraph("".join(_inline(element, marked=True)), _text(element))
        for box in descendants(element, "text-box"):
            self.blocks(box)

    def _list(self, element: Element, depth: int, style: str) -> None:
        for number, item in enumerate(element, 1):
            marker = "-" if style in self._bulleted or not style else f"{number}."
            for block in item:
                if local(block) == "list":
                    self._list(block, depth + 1, attribute(block, "style-name") or style)
                elif local(block) in ("p", "h"):
                    self._flow.item(depth, marker, "".join(_inline(block, marked=True)), _text(block))


def _text(element: Element) -> str:
    return "".join(_inline(element))


def _inline(element: Element, *, marked: bool = False) -> Iterator[str]:
    yield _spaced(element.text)
    for each in element:
        name = local(each)
        if name == "s":
            yield " " * whole_number(attribute(each, "c"), 1, 1, 1000)
        elif name == "tab":
            yield "\t"
        elif name == "line-break":
            yield "\n"
        elif name == "note":
            yield f" [{' '.join(_text(body).strip() for body in descendants(each, 'note-body'))}]"
        elif name == "a" and marked:
            yield _link(each)
        elif name not in _SKIPPED and name != "text-box":
            yield from _inline(each, marked=marked)
        yield _spaced(each.tail)


def _spaced(text: str | None) -> str:
    """As in HTML a run of white space is one space."""
    return (
        f"{' ' * text[0].isspace()}{' '.join(text.split())}{' ' * text[-1].isspace()}"
        if text and text.strip()
        else " " * bool(text)
    )


def _link(element: Element) -> str:
    text, address = _text(element).strip(), attribute(element, "href")
    return f"[{text}]({address})" if text and address.startswith(("http://", "https://", "mailto:")) else text


def _rows(table: Element) -> list[list[str]]:
    rows: list[list[str]] = []
    for row in _rows_of(table):
        cells: list[str] = []
        for cell in row:
            if local(cell) in ("table-cell", "covered-table-cell"):
                text = "\n".join(_text(each) for each in descendants(cell, "p")).strip()
                cells += [text] * whole_number(
                    attribute(cell, "number-columns-repeated"), 1, 1, _MOST_REPEATS
                )
        repeats = whole_number(attribute(row, "number-rows-repeated"), 1, 1, _MOST_REPEATS)
        rows += [cells] * (repeats if any(cells) else 1)
    return rows


def _rows_of(table: Element) -> Iterator[Element]:
    for element in table:
        if local(element) == "table-row":
            yield element
        elif local(element) in ("table-header-rows", "table-row-group", "table-rows"):
            yield from _rows_of(element)
