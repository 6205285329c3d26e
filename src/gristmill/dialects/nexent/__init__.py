"""Nexent (seed 000): its data process. Files become chunks that go to a sink, and images are looked at."""

import re
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from gristmill.api.errors import Refusal
from gristmill.dialects import base
from gristmill.dialects.base import Dialect
from gristmill.dialects.nexent import creating, images, listing, reading
from gristmill.dialects.nexent.words import NAME
from gristmill.domain.errors import Problem

_INDEX = re.compile(r"0|[1-9][0-9]{0,6}")

router = APIRouter(include_in_schema=False)
# Those with a fixed path first: `/tasks/{task_id}/details` would not take them, but readers should not have to check.
for _part in (creating, reading, images, listing):
    router.routes += _part.router.routes


def _refused(refusal: Refusal) -> Response:
    """A bad body or query is a 422 in the shape of HTTPValidationError, all else a sentence under `detail`."""
    if refusal.status == 400:
        told = [_told(problem) for problem in refusal.problems]
        return base.refusal(refusal, {"detail": told or refusal.detail}, 422)
    return base.refusal(refusal, {"detail": refusal.detail})


def _told(problem: Problem) -> dict[str, Any]:
    """Pointers into a body begin with a slash; names of query parameters and fields of forms do not."""
    first, *rest = problem.pointer.split("/")
    place = (
        ["query", first] if first else ["body", *(int(one) if _INDEX.fullmatch(one) else one for one in rest)]
    )
    return {"loc": place, "msg": problem.detail, "type": problem.code}


DIALECT = Dialect(NAME, router, re.compile("/tasks(/|$)"), _refused)
