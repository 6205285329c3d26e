"""Asks the model with a body of Anthropic's Messages API and answers with a message of it, whatever the endpoint speaks.

Where the endpoint serves `/messages` itself (GRISTMILL_LLM_MESSAGES) the body goes there as it is. Elsewhere it is translated
to `/chat/completions` and the answer back. What cannot be expressed there fails the item and says so: an answer to
another question than was asked would be worse.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, Field, RootModel

from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success
from gristmill.domain.usage import Usage
from gristmill.processors import messages_answer, messages_request, refusals
from gristmill.processors.base import Context, Processor
from gristmill.processors.conversation import first_choice
from gristmill.processors.messages_request import Inexpressible
from gristmill.processors.refusals import Refused
from gristmill.upstream import usage
from gristmill.upstream.client import MESSAGES, Upstream
from gristmill.upstream.errors import UpstreamError, bad_answer


class MessagesConfig(BaseModel):
    model: str | None = Field(None, description="Asked in place of the one that a request names")


class MessagesInput(RootModel[dict[str, Any]]):
    """The parameters of a message, as Anthropic's API has them."""


class Messages(Processor[MessagesInput, MessagesConfig]):
    name: ClassVar[str] = "messages"
    description: ClassVar[str] = (
        "Asks with a body of Anthropic's Messages API and answers with a message of it."
    )
    input_model = MessagesInput
    config_model = MessagesConfig
    uses_upstream: ClassVar[bool] = True

    async def run(self, given: MessagesInput, context: Context[MessagesConfig]) -> Outcome:
        try:
            upstream = refusals.configured(context.services.upstream)
            asked = (
                given.root if context.config.model is None else given.root | {"model": context.config.model}
            )
            ask = _passed_on if upstream.speaks_messages else _translated
            return await ask(upstream, asked, context.idempotency_key)
        except Refused as refused:
            return refused.outcome
        except Inexpressible as what:
            return Failure(ItemError(400, "invalid_request", str(what)))
        except UpstreamError as error:
            return error.outcome()


async def _passed_on(upstream: Upstream, asked: dict[str, Any], request_id: str) -> Outcome:
    if asked.get("stream"):
        raise Inexpressible("stream", "a batch takes no requests with it")
    body = {"model": upstream.model, **asked} if upstream.model else asked
    answer = (await upstream.post(MESSAGES, body, request_id=request_id)).body
    if answer.get("type") != "message" or not isinstance(answer.get("content"), list):
        raise bad_answer("it is no message")
    return _success(upstream, body, answer, answer)


async def _translated(upstream: Upstream, asked: dict[str, Any], request_id: str) -> Outcome:
    body = messages_request.chat(asked)
    body = {"model": upstream.model, **body} if upstream.model else body
    answer = (await upstream.post("/chat/completions", body, request_id=request_id)).body
    message = messages_answer.message(first_choice(answer), answer, _message_id(request_id))
    return _success(upstream, body, answer, message)


def _message_id(request_id: str) -> str:
    return "msg_" + request_id.replace("-", "").replace(":", "_")


def _success(
    upstream: Upstream, sent: dict[str, Any], answer: dict[str, Any], message: dict[str, Any]
) -> Success:
    call = usage.call(sent, answer)
    cost = upstream.cost(call.prompt_tokens, call.completion_tokens)
    texts = [block["text"] for block in message["content"] if _is_text(block)]
    return Success(message, "".join(texts) or None, Usage(main_response=call, cost_microusd=cost))


def _is_text(block: Any) -> bool:
    return isinstance(block, dict) and isinstance(block.get("text"), str)
