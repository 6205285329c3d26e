"""KooSearch (seed 003): tasks of the documents of a knowledge base, which is a collection here."""

import re

from fastapi import APIRouter
from starlette.responses import Response

from gristmill.api.errors import Refusal
from gristmill.dialects import base
from gristmill.dialects.base import Dialect
from gristmill.dialects.koosearch import creating, listing
from gristmill.dialects.koosearch.words import NAME

_TOLD = 10  # of the problems of a request

router = APIRouter(include_in_schema=False)
router.routes += [*listing.router.routes, *creating.router.routes]


def _refused(refusal: Refusal) -> Response:
    """Codes look like those of KooSearch; the digits are the status, for theirs say what only their service can mean."""
    told = [problem.detail for problem in refusal.problems[:_TOLD]] or [refusal.detail]
    body = {"error_code": f"KOS.{refusal.status:08d}", "error_msg": "; ".join(told)}
    return base.refusal(refusal, body)


DIALECT = Dialect(NAME, router, re.compile("/v1/[^/]+/applications/"), _refused)
