"""Rich Text. Left out: headings as such, pictures, footnotes' place, the layout."""

from striprtf.striprtf import rtf_to_text

from gristmill.documents.flow import Flow
from gristmill.documents.source import Reading, Source


def read(source: Source) -> Reading:
    text: str = rtf_to_text(source.data().decode("latin-1"), errors="replace")  # type: ignore[no-untyped-call]
    flow = Flow(source.limits)
    rows: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        if line.endswith("|"):
            rows.append(line[:-1].split("|"))
            continue
        if rows:
            flow.table(rows)
            rows = []
        flow.paragraph(line)
    return Reading(flow.pages())
