"""Documents in, pages out: text, Markdown, tables, metadata, language. Each is read in a sandboxed child process.

`pool.ParserPool` is the way in; what it returns is in `document.py`, what it refuses in `refusal.py`. All but these and
`chunks.py` runs in the child only. Needs the extra `documents`.
"""

from gristmill.documents.document import Document, Page, Table
from gristmill.documents.pool import ParserPool, Picture
from gristmill.documents.refusal import Refused

__all__ = ["Document", "Page", "ParserPool", "Picture", "Refused", "Table"]
