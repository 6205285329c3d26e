"""LlamaCloud: batches of documents over a directory, as the official `llama-cloud` clients speak of them."""

import re

from fastapi import APIRouter
from starlette.responses import Response

from gristmill.api.errors import Refusal
from gristmill.dialects.base import Dialect, refusal
from gristmill.dialects.llamacloud import (
    batches,
    configurations,
    directories,
    directory_files,
    extract,
    files,
    parse,
    webhook_configs,
    words,
)

_TOLD = 10  # problems that the text names; all are in the list beside it

router = APIRouter(include_in_schema=False)
for room in (batches, directories, directory_files, files, configurations, parse, extract, webhook_configs):
    router.routes += room.router.routes


def refused(refused: Refusal) -> Response:
    """Its clients show `detail`; the rest is for who looks."""
    problems = [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in refused.problems]
    told = [f"{p.pointer}: {p.detail}" if p.pointer else p.detail for p in refused.problems[:_TOLD]]
    body = {
        "detail": "; ".join(told) or refused.detail,
        "code": refused.code,
        "errors": problems,
        "request_id": refused.request_id,
    }
    return refusal(refused, body)


DIALECT = Dialect(words.NAME, router, re.compile(r"/api/(?:v2|v1/beta)(?:/|$)"), refused)
