"""What Word and PowerPoint files have in common: parts, relationships, properties."""

import posixpath
import zipfile
from xml.etree.ElementTree import Element

from gristmill.documents import archive, markup
from gristmill.documents.limits import Limits
from gristmill.documents.markup import attribute, children, local
from gristmill.documents.refusal import Refused

_PROPERTIES = {
    "title": "title",
    "creator": "author",
    "subject": "subject",
    "description": "description",
    "keywords": "keywords",
    "created": "created",
    "modified": "modified",
    "language": "language",
}


class Package:
    """The parts of one file by name, and what a part refers to."""

    def __init__(self, opened: zipfile.ZipFile, limits: Limits) -> None:
        self._opened = opened
        self._limits = limits

    def tree(self, name: str) -> Element | None:
        data = archive.member(self._opened, name, self._limits)
        return markup.parsed(data, self._limits) if data is not None else None

    def main(self, fallback: str) -> str:
        """The name of the part that everything hangs on."""
        found = self.targets("", "officeDocument")
        return found[0] if found else fallback

    def relations(self, part: str) -> dict[str, str]:
        """Id → part or address."""
        return {attribute(each, "Id"): _target(part, each) for each in self._relationships(part)}

    def targets(self, part: str, kind: str) -> list[str]:
        return [
            _target(part, each)
            for each in self._relationships(part)
            if attribute(each, "Type").rpartition("/")[2] == kind
        ]

    def _relationships(self, part: str) -> list[Element]:
        folder, name = posixpath.split(part)
        tree = self.tree(posixpath.join(folder, "_rels", f"{name}.rels"))
        return list(children(tree, "Relationship")) if tree is not None else []

    def properties(self) -> dict[str, str]:
        tree = self.tree("docProps/core.xml")
        found = {} if tree is None else {local(each): (each.text or "").strip() for each in tree}
        return {name: found[key] for key, name in _PROPERTIES.items() if found.get(key)}


def _target(part: str, relationship: Element) -> str:
    target = attribute(relationship, "Target")
    if attribute(relationship, "TargetMode") == "External":
        return target
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(part), target)).lstrip("/")


def required(tree: Element | None) -> Element:
    if tree is None:
        raise Refused("document_broken", "The document lacks its main part.")
    return tree
