"""OpenAI's Batch API: `/v1/files`, `/v1/batches` and `/v1/webhook_endpoints`, as the official `openai` clients call them.

A batch is one of the processor `completion`; its output and error files are made of its results whenever they are read.
"""

import re

from fastapi import APIRouter
from starlette.responses import Response

from gristmill.api.errors import Refusal
from gristmill.dialects import base
from gristmill.dialects.base import Dialect
from gristmill.dialects.openai import batches, files, webhook_endpoints
from gristmill.dialects.openai.words import NAME, param

router = APIRouter(include_in_schema=False)
for _part in (files, batches, webhook_endpoints):
    router.routes += _part.router.routes

# What OpenAI has beside these is not served here; a client that calls it gets its 404 in a shape that it reads.
_PATHS = re.compile(
    r"/v1/(batches|files|uploads|chat|completions|responses|embeddings|models|moderations|webhook_endpoints|webhook_event_types)(/|$)"
)
_CODES = {"too_short": "empty_file"}


def _refused(refusal: Refusal) -> Response:
    error = {
        "message": refusal.detail
        if len(refusal.problems) < 2
        else "; ".join(f"{param(one.pointer)}: {one.detail}" for one in refusal.problems[:10]),
        "type": "server_error" if refusal.status >= 500 else "invalid_request_error",
        "param": param(refusal.problems[0].pointer) if refusal.problems else None,
        "code": "invalid_api_key" if refusal.status == 401 else _CODES.get(refusal.code, refusal.code),
    }
    return base.refusal(refusal, {"error": error})


DIALECT = Dialect(NAME, router, _PATHS, _refused)
