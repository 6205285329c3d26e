"""POSTs each item to a URL of the caller's and keeps the answer: a processor in any language."""

import json
import math
import re
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BaseModel, Field, RootModel

from gristmill.domain.outcomes import Failure, ItemError, Outcome, Retry, Success
from gristmill.domain.retry import RetryPolicy
from gristmill.processors import calls
from gristmill.processors.base import Context, Processor
from gristmill.processors.calls import Endpoint, Message
from gristmill.processors.fields import GuardedUrl, SecretHeaders, SigningSecret
from gristmill.processors.refusals import Refused

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_DELAY_SECONDS = 24 * 3600.0
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_INT64 = range(-(2**63), 2**63)
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_SUCCESS_KEYS = frozenset({"status", "output", "content"})


class HttpConfig(BaseModel):
    url: GuardedUrl
    secret: SigningSecret | None = None
    headers: SecretHeaders = {}
    timeout_seconds: Annotated[float, Field(ge=1, le=3600, description="For one call")] = 60.0


class HttpInput(RootModel[dict[str, Any]]):
    """Any JSON object: what the endpoint is to work on."""


class Http(Processor[HttpInput, HttpConfig]):
    name: ClassVar[str] = "http"
    description: ClassVar[str] = "POSTs each item to a URL of yours, signed, and keeps the answer."
    input_model = HttpInput
    config_model = HttpConfig
    retry: RetryPolicy = calls.POLICY

    def depends_on(self, config: HttpConfig) -> str | None:
        return config.url

    async def run(self, given: HttpInput, context: Context[HttpConfig]) -> Outcome:
        endpoint = _endpoint(context.config)
        try:
            response = await calls.post(
                context.services.http,
                endpoint,
                _message(given, context),
                max_bytes=MAX_ANSWER_BYTES,
                circuit=context.services.circuit,
            )
        except Refused as refused:
            return refused.outcome
        if not response.body:
            return Success(content="")
        try:
            return _meaning(endpoint, strict(response.body))
        except ValueError as error:
            return _bad_answer(response.status, str(error))


def _endpoint(config: HttpConfig) -> Endpoint:
    secret, headers = calls.in_clear(config.secret), calls.all_in_clear(config.headers)
    return Endpoint("endpoint", "The endpoint", config.url, secret, headers, config.timeout_seconds)


def _message(given: HttpInput, context: Context[HttpConfig]) -> Message:
    """The same bytes on every attempt, so that whoever has seen them can say so."""
    body = {
        "type": "item",
        "batch_id": str(context.batch_id),
        "custom_id": context.custom_id,
        "input": given.root,
    }
    identifier = f"item_{context.batch_id.hex}_{context.ordinal}"
    return Message(identifier, context.idempotency_key, orjson.dumps(body))


def strict(body: bytes) -> Any:
    """The value of a JSON text as one of ours would have to be. Raises ValueError, which quotes nothing."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("its body is not JSON") from None
    if _too_deep(value):
        raise ValueError(f"its JSON has more than {MAX_DEPTH} levels")
    if _LONG_NUMBER.search(body):  # the fast parser turns 2^64 into a float
        json.loads(body, parse_int=_int64)
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
        ]
    return any(isinstance(one, dict | list) for one in level)


def _int64(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _INT64:
        raise ValueError("its JSON has an integer that does not fit into 64 bits")
    return int(digits)


def _meaning(endpoint: Endpoint, answer: Any) -> Outcome:
    """An answer is the item's output, unless its `status` says more."""
    said: dict[str, Any] = answer if isinstance(answer, dict) else {}
    match said.get("status"):
        case "failed":
            return Failure(
                _told(endpoint, said, "endpoint_failed", "The endpoint says that the item failed.")
            )
        case "retry":
            error = _told(endpoint, said, "endpoint_retry", "The endpoint asks to be tried again.")
            return Retry(error, _delay(said.get("delay_seconds")))
        case "success" if "output" in said and said.keys() <= _SUCCESS_KEYS:
            content = said.get("content")
            return Success(said["output"], content if isinstance(content, str) else None)
    return Success(answer)


def _told(endpoint: Endpoint, answer: dict[str, Any], kind: str, message: str) -> ItemError:
    """From `error`: a text, or an object with `type`, `message`, `suggestion`, and `code` 400 where the input is bad."""
    error = answer.get("error")
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        error = {}
    named, said, advice = error.get("type"), error.get("message"), error.get("suggestion")
    return ItemError(
        400 if error.get("code") == 400 else 500,
        named if isinstance(named, str) and _TYPE.fullmatch(named) else kind,
        calls.mask(endpoint, said) if isinstance(said, str) and said else message,
        retryable=kind == "endpoint_retry",
        suggestion=calls.mask(endpoint, advice) if isinstance(advice, str) and advice else None,
    )


def _delay(asked: Any) -> float | None:
    """None where nothing sensible was asked for: the processor's own policy decides."""
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not math.isfinite(asked) or asked < 0:
        return None
    return min(float(asked), MAX_DELAY_SECONDS)


def _bad_answer(status: int, why: str) -> Retry:
    message = f"The endpoint answered HTTP {status}, but {why}."
    suggestion = "Answer with a JSON text in UTF-8, or with an empty body."
    return Retry(
        ItemError(
            500, "endpoint_bad_answer", message, upstream_status=status, retryable=True, suggestion=suggestion
        )
    )
