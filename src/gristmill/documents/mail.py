"""E-mail: the headers people look at, the text, and what is attached, by name only."""

import email
import email.policy
import itertools
import re
from email.message import EmailMessage

from gristmill.documents import html
from gristmill.documents.encoding import decoded
from gristmill.documents.flow import Flow
from gristmill.documents.limits import Limits
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Reading, Source

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MOST_ATTACHMENTS = 1000
# Parts that hold parts. The parser looks at every line once for each that is open: time grows with the square of them.
_HOLDER = re.compile(rb"^content-type:[ \t]*(?:multipart|message)/", re.IGNORECASE | re.MULTILINE)
_MOST_HOLDERS = 200


def read(source: Source) -> Reading:
    data = source.data()
    if sum(1 for _ in itertools.islice(_HOLDER.finditer(data), _MOST_HOLDERS + 1)) > _MOST_HOLDERS:
        raise too_complex(f"It has more than {_MOST_HOLDERS} parts that hold parts.")
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise Refused("document_broken")
    flow = Flow(source.limits)
    flow.heading(1, _header(message, "Subject"))
    headers = {name: _header(message, name) for name in _HEADERS}
    said = [f"{name}: {value}" for name, value in headers.items() if value and name != "Subject"]
    flow.paragraph("  \n".join(said), "\n".join(said))
    _body(flow, message, source.limits)
    _attachments(flow, message)
    metadata = {name.lower(): value for name, value in headers.items() if value}
    return Reading(flow.pages(), metadata | {"title": headers["Subject"]})


def _header(message: EmailMessage, name: str) -> str:
    """A header can be so broken that the parser fails on it; the letter is read all the same."""
    try:
        return " ".join(str(message.get(name, "")).split())
    except (ValueError, LookupError, AttributeError, TypeError):
        return ""


def _body(flow: Flow, message: EmailMessage, limits: Limits) -> None:
    part = message.get_body(("plain", "html"))
    if part is None:
        return
    payload = part.get_payload(decode=True)
    text = decoded(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
    if part.get_content_type() == "text/html":
        page = html.from_text(text, limits).pages[0]
        for table in page.tables:
            flow.note(table.rows)
        flow.paragraph(page.markdown, page.text)
    else:
        flow.paragraph(text)


def _attachments(flow: Flow, message: EmailMessage) -> None:
    for index, part in enumerate(message.iter_attachments()):
        if index == _MOST_ATTACHMENTS:
            return
        if index == 0:
            flow.heading(2, "Attachments")
        flow.item(0, "-", f"{part.get_filename() or 'unnamed'} ({part.get_content_type()})")
