"""A model that reads invoices: what it answers is computed from the text that it was sent."""

import json
import re
from typing import Any

from fakes.librarian import Librarian
from fakes.wire import Request

INVOICE = {
    "type": "object",
    "properties": {"number": {"type": "string"}, "total": {"type": "number"}},
    "required": ["number", "total"],
    "additionalProperties": False,
}
_NUMBER = re.compile(r"Invoice (\w+)")
_TOTAL = re.compile(r"Total ([0-9.]+)")


class Reader:
    """Extracts where a form is asked for, else mends Markdown."""

    def __init__(self) -> None:
        self._mending = Librarian()

    def __call__(self, request: Request) -> tuple[int, dict[str, Any]]:
        if "response_format" not in request.body:
            return self._mending(request)
        number, total = _NUMBER.search(request.said), _TOTAL.search(request.said)
        said = {
            "number": number[1] if number else "",
            "total": float(total[1]) if total else 0,
        }
        message = {"role": "assistant", "content": json.dumps(said)}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        return 200, {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
