"""Anthropic's Message Batches: `/v1/messages/batches`, as the official `anthropic` clients call them.

A batch is one of the processor `messages`, which asks the model; nothing is translated here.
"""

import re

from starlette.responses import Response

from gristmill.api.errors import Refusal
from gristmill.dialects import base
from gristmill.dialects.anthropic.batches import router
from gristmill.dialects.anthropic.words import NAME, error_type, place
from gristmill.dialects.base import Dialect

# `/v1/messages` itself is not served; a client that calls it gets its 404 in a shape that it reads.
_PATHS = re.compile(r"/v1/messages(/|$)")


def _refused(refusal: Refusal) -> Response:
    told = [f"{place(one.pointer)}: {one.detail}" for one in refusal.problems[:10]]
    error = {"type": error_type(refusal.status), "message": "; ".join(told) or refusal.detail}
    return base.refusal(refusal, {"type": "error", "error": error, "request_id": refusal.request_id})


DIALECT = Dialect(NAME, router, _PATHS, _refused)
