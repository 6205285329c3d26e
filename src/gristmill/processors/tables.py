"""Tables as results show them."""

from typing import Any, Literal

from gristmill.documents import Document, Table

Tables = Literal["rows", "csv", "both"]


def of_document(document: Document, form: Tables, origin: str | None = None) -> list[dict[str, Any]]:
    """In the order of the document, numbered from 0. `origin` begins their ids; None: they have none."""
    return [shown(index, table, form, origin) for index, table in enumerate(document.tables)]


def shown(index: int, table: Table, form: Tables, origin: str | None) -> dict[str, Any]:
    """`csv` is RFC 4180; `rows` holds the header, if there is one, as its first."""
    found: dict[str, Any] = {} if origin is None else {"id": f"{origin}-{index}"}
    found |= {
        "index": index,
        "page": table.page,
        "row_count": len(table.rows),
        "column_count": max(map(len, table.rows), default=0),
    }
    if form != "csv":
        found["rows"] = table.rows
    if form != "rows":
        found["csv"] = table.csv()
    return found
