"""What a create would say, without making anything."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, create, survey
from gristmill.api.auth import caller
from gristmill.api.create import Checked
from gristmill.api.envelope import answer
from gristmill.api.openapi import WRITE, documented, enveloped, json_body, ref, responses
from gristmill.api.parts import Parts, parts
from gristmill.api.schemas import BATCH_EXAMPLES
from gristmill.api.sources import FromDirectory, FromFile
from gristmill.api.survey import Survey
from gristmill.intake import json
from gristmill.intake.draft import request_of
from gristmill.intake.problems import MAX_PROBLEMS

# Of English, as the tokenizers of most models cut it (OpenAI's rule of thumb). Nothing but a first guess.
CHARACTERS_PER_TOKEN = 4

router = APIRouter(prefix="/api/v1/batches", tags=["Batches"])


@router.post(
    "/validate",
    summary="Check a batch without creating it",
    responses=responses(*WRITE),
    openapi_extra=documented(
        body=json_body("BatchCreate", BATCH_EXAMPLES), answer=enveloped(ref("ValidationAnswer"))
    ),
)
async def validate_batch(request: Request) -> Response:
    """Takes the body of a create and answers with everything that is wrong with it, at most 100 problems. `valid` says
    whether the create would be accepted. The estimate of tokens is the number of characters of the requests, as JSON,
    divided by 4: instructions, chats and files come on top. Nothing is stored and no model is asked. A source that is a
    file is read to its end."""
    key = await caller(request, "batches:write")
    of = parts(request)
    text = await body.read_json_text(request, of.settings.body_max_bytes)
    async with of.aside.turn(text) as run:
        given = await run(json.parse, text, dict)
        requests = given.get("requests")
        total = len(requests) if isinstance(requests, list) else 0
        checked = await create.check(of, key, given, run)
        found = await _survey(of, checked)
        return answer(await run(_view, total, checked) if found is None else _view_of_source(found))


async def _survey(of: Parts, checked: Checked) -> Survey | None:
    """Of a source; None: the requests are in the body, or something else is wrong already."""
    if checked.batch is None:
        return None
    new, content = checked.batch
    if isinstance(content, FromFile):
        return await survey.of_file(of, new, content)
    if isinstance(content, FromDirectory):
        return await survey.of_directory(of, new.tenant_id, content)
    return None


def _view_of_source(found: Survey) -> dict[str, Any]:
    return {
        "valid": found.valid,
        "total_requests": found.total,
        "invalid_requests": found.invalid,
        **_size(found.characters, found.size),
        "errors": [asdict(problem) for problem in found.problems],
    }


def _view(total: int, checked: Checked) -> dict[str, Any]:
    draft = checked.draft
    found = draft.problems + [problem for several in draft.refused.values() for problem in several]
    bad = {index for problem in found if (index := request_of(problem)) is not None}
    return {
        "valid": checked.batch is not None,
        "total_requests": total,
        "invalid_requests": len(bad),
        **_sizes(draft.texts),
        "errors": [asdict(problem) for problem in found[:MAX_PROBLEMS]],
    }


def _sizes(texts: Sequence[str]) -> dict[str, Any]:
    """None where the requests are no list of a size that is read."""
    if not texts:
        return _size(None, None)
    return _size(sum(map(len, texts)), sum(len(text.encode()) for text in texts))


def _size(characters: int | None, size: int | None) -> dict[str, Any]:
    if characters is None:
        return {"input_bytes": None, "estimate": None}
    tokens = -(-characters // CHARACTERS_PER_TOKEN)
    estimate = {"input_tokens": tokens, "method": f"characters / {CHARACTERS_PER_TOKEN}"}
    return {"input_bytes": size, "estimate": estimate}
