"""Spreadsheets: a page to a sheet, its cells as they show. Left out: formulas, formats, charts, merged cells' extent."""

import datetime
import io
import re
import zipfile

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError, SheetTypeEnum

from gristmill.documents import archive, opendocument
from gristmill.documents.document import Page
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.markup import descendants
from gristmill.documents.office import Package
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

_SPACES = re.compile(rb"<v>\s*([^<]*?)\s*</v>")
_Cell = int | float | str | bool | datetime.time | datetime.date | datetime.datetime | datetime.timedelta


def read(source: Source) -> Reading:
    metadata = _properties(source)
    data = source.data()
    try:
        return Reading(_pages(data, source.limits), metadata)
    except PasswordError as error:
        raise Refused("encrypted") from error
    except (CalamineError, OSError, ValueError) as error:
        if not data.startswith(b"PK"):
            raise Refused("document_broken") from error
        return _read_otherwise(source, metadata)


def _pages(data: bytes, limits: Limits) -> tuple[Page, ...]:
    flow = Flow(limits)
    with CalamineWorkbook.from_filelike(io.BytesIO(data)) as book:
        for sheet in book.sheets_metadata:
            if sheet.typ == SheetTypeEnum.WorkSheet:
                _sheet(flow, book.get_sheet_by_name(sheet.name), limits)
    return flow.pages()


def _read_otherwise(source: Source, metadata: dict[str, str]) -> Reading:
    """What calamine does not take although Excel and KSpread do: numbers with spaces around them, old OpenDocument files."""
    with archive.opened(source.file, source.limits) as opened:
        if "content.xml" in opened.namelist():
            return opendocument.read(source)
        tidy = _without_spaces(opened, source.limits)
    try:
        return Reading(_pages(tidy, source.limits), metadata)
    except (CalamineError, OSError, ValueError) as error:
        raise Refused("document_broken") from error


def _without_spaces(opened: zipfile.ZipFile, limits: Limits) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as tidy:
        for entry in opened.infolist():
            data = archive.member(opened, entry.filename, limits) or b""
            tidy.writestr(entry.filename, _SPACES.sub(rb"<v>\1</v>", data))
    return out.getvalue()


def _properties(source: Source) -> dict[str, str]:
    """Of files that are archives; these are judged here, before calamine opens them."""
    if not source.data().startswith(b"PK"):
        return {}
    with archive.opened(source.file, source.limits) as opened:
        package = Package(opened, source.limits)
        manifest = package.tree("META-INF/manifest.xml")
        if manifest is not None and next(descendants(manifest, "encryption-data"), None) is not None:
            raise Refused("encrypted")
        return package.properties()


def _sheet(flow: Flow, sheet: CalamineSheet, limits: Limits) -> None:
    if sheet.height * sheet.width > limits.table_cells:
        raise too_complex(f"A sheet has more than {limits.table_cells:,} cells.")
    flow.heading(2, sheet.name)
    flow.table([[_shown(cell) for cell in row] for row in sheet.iter_rows()])
    flow.next_page()


def _shown(cell: _Cell) -> str:
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time()
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ")
    return str(cell)
