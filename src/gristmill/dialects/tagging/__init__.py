"""Seed 001, tagging jobs: documents or rows of a table to tags, under `/api/batch` and `/api/history`.

A job is a batch of the processor `tag`; its id is the caller's own, or one made here. docs/dialects.md tells what differs.
"""

import re

from fastapi import APIRouter
from starlette.responses import Response

from gristmill.api.errors import Refusal
from gristmill.dialects import base
from gristmill.dialects.base import Dialect
from gristmill.dialects.tagging import history, jobs, preflight, socket, start
from gristmill.dialects.tagging.words import NAME

router = APIRouter(include_in_schema=False)
for _part in (start, jobs, socket, preflight, history):
    router.routes += _part.router.routes


def _refused(refusal: Refusal) -> Response:
    """`detail` is what its clients show. The pointers of a body's problems lead into the body they sent."""
    problems = [
        {"pointer": start.outward(one.pointer), "code": one.code, "detail": one.detail}
        for one in refusal.problems
    ]
    detail = refusal.detail
    if problems:
        detail = "; ".join(" ".join(filter(None, (one["pointer"], one["detail"]))) for one in problems[:3])
    body = {"detail": detail} | ({"errors": problems} if problems else {})
    return base.refusal(refusal, body)


DIALECT = Dialect(NAME, router, re.compile(r"/api/(batch|history)(/|$)"), _refused)
