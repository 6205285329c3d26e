"""E-books: a page to each part of the spine. Left out: pictures, the table of contents, the layout."""

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from gristmill.documents import archive, html
from gristmill.documents.document import Page
from gristmill.documents.encoding import decoded
from gristmill.documents.limits import Limits
from gristmill.documents.markup import attribute, child, children, descendants, local
from gristmill.documents.office import Package, required
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # hidden fonts are no lock
_METADATA = {
    "title": "title",
    "creator": "author",
    "subject": "subject",
    "description": "description",
    "date": "created",
    "language": "language",
}


def read(source: Source) -> Reading:
    with archive.opened(source.file, source.limits) as opened:
        package = Package(opened, source.limits)
        _refuse_encrypted(package)
        name = _package_name(package)
        tree = required(package.tree(name))
        pages = _pages(opened, list(_spine(tree, posixpath.dirname(name))), source.limits)
        return Reading(pages, _metadata(tree))


def _refuse_encrypted(package: Package) -> None:
    tree = package.tree("META-INF/encryption.xml")
    methods = descendants(tree, "EncryptionMethod") if tree is not None else ()
    if any(attribute(each, "Algorithm") not in _FONTS for each in methods):
        raise Refused("encrypted")


def _package_name(package: Package) -> str:
    files = child(required(package.tree("META-INF/container.xml")), "rootfiles", "rootfile")
    return unquote(attribute(required(files), "full-path"))


def _spine(tree: Element, folder: str) -> Iterator[str]:
    manifest = {attribute(each, "id"): each for each in children(required(child(tree, "manifest")), "item")}
    for reference in children(required(child(tree, "spine")), "itemref"):
        item = manifest.get(attribute(reference, "idref"))
        if item is not None and "html" in attribute(item, "media-type"):
            yield posixpath.normpath(posixpath.join(folder, unquote(attribute(item, "href"))))


def _pages(opened: zipfile.ZipFile, names: list[str], limits: Limits) -> tuple[Page, ...]:
    if len(names) > limits.pages:
        raise too_complex(f"It has more than {limits.pages:,} parts.")
    pages: list[Page] = []
    for name in names:
        data = archive.member(opened, name, limits)
        if data is not None:
            pages += html.from_text(decoded(data), limits, len(pages) + 1).pages
    return tuple(pages)


def _metadata(tree: Element) -> dict[str, str]:
    found: dict[str, str] = {}
    meta = child(tree, "metadata")
    for each in meta if meta is not None else ():
        name = _METADATA.get(local(each))
        if name and (each.text or "").strip():
            found[name] = f"{found[name]}, {each.text}" if name in found else (each.text or "").strip()
    return found
