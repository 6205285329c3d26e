"""Spreadsheets: a page to a sheet, its cells as they show. Left out: formulas, formats, charts, merged cells' extent."""

import datetime
import io

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError, SheetTypeEnum

from gristmill.documents import archive
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.markup import descendants
from gristmill.documents.office import Package
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

_Cell = int | float | str | bool | datetime.time | datetime.date | datetime.datetime | datetime.timedelta


def read(source: Source) -> Reading:
    metadata = _properties(source)
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(source.data())) as book:
            flow = Flow(source.limits)
            for sheet in book.sheets_metadata:
                if sheet.typ == SheetTypeEnum.WorkSheet:
                    _sheet(flow, book.get_sheet_by_name(sheet.name), source.limits)
            return Reading(flow.pages(), metadata)
    except PasswordError as error:
        raise Refused("encrypted") from error
    except (CalamineError, OSError, ValueError) as error:
        raise Refused("document_broken") from error


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
