"""Running the failed requests of an ended batch again."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.batches import id_of, view
from gristmill.api.create import new_upstream
from gristmill.api.envelope import answer
from gristmill.api.openapi import CHANGE, documented, enveloped, json_body, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.schemas import CustomId, Strict, UpstreamOptions
from gristmill.store import quotas, retries
from gristmill.store.retries import Choice

MAX_BYTES = 16 * 1024 * 1024  # 10,000 custom ids of 256 characters, as long as JSON can make them
_Code = Literal[400, 408, 499, 500]

router = APIRouter(prefix="/api/v1/batches", tags=["Batches"])


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


class RetryOptions(Strict):
    """Which of the failed requests run again; those given must all hold, and with none given all do."""

    status: (
        Annotated[list[Literal["failed"]], BeforeValidator(_listed), Field(min_length=1, max_length=1)] | None
    ) = Field(None, description="Nothing else can be retried; `failed` or `[failed]`")
    error_codes: Annotated[list[_Code], Field(min_length=1, max_length=4)] | None = None
    custom_ids: Annotated[list[CustomId], Field(min_length=1, max_length=10_000)] | None = None
    upstream: UpstreamOptions | None = Field(
        None,
        description="In place of what the batch was made with. A batch with a key of its own needs it again: the key was "
        "dropped when it ended. `api_key: null` goes on with the operator's",
    )


EXAMPLES = {
    "all": {"summary": "All that failed", "value": {}},
    "some": {
        "summary": "What a cancel or a deadline kept from running",
        "value": {"error_codes": [408, 499]},
    },
}


@router.post(
    "/{batch_id}/retry",
    status_code=202,
    summary="Run failed requests of an ended batch again",
    responses=responses(*CHANGE, 409, 410),
    openapi_extra=documented(
        body=json_body("RetryOptions", EXAMPLES, required=False),
        answer=enveloped(ref("BatchAnswer")),
        status=202,
    ),
)
async def retry_batch(request: Request, batch_id: str) -> Response:
    """From completed, failed or cancelled. The batch is in_progress again: its `run` is one more, its deadline begins
    anew, and its webhook is told again when it ends. What the requests had failed with moves into their `attempts`.
    Requests that were refused when the batch was made (400, attempt 0) are never run."""
    key = await caller(request, "batches:write")
    Query(request, ()).check()
    options = await body.read_optional_model(request, RetryOptions, MAX_BYTES)
    choice = Choice(options.error_codes, options.custom_ids)
    of, its_id, brought = parts(request), id_of(batch_id), options.upstream
    upstream = new_upstream(of, its_id, brought)
    key_given = brought is not None and "api_key" in brought.model_fields_set
    async with of.database.transaction(longest_seconds=2 * retries.MOVE_SECONDS) as tx:
        batch = await retries.retry(tx, key.tenant_id, its_id, choice, upstream, key_given=key_given)
        await quotas.hold(tx, key.tenant_id, of.quotas)  # it is among them by now
    of.wake()
    return answer(view(batch), 202)
