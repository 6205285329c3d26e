"""Passes one request body to the model's endpoint and keeps the whole answer."""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, RootModel, model_validator
from pydantic_core import PydanticCustomError

from gristmill.domain.outcomes import Outcome, Success
from gristmill.domain.usage import Usage
from gristmill.processors import refusals
from gristmill.processors.base import Context, Processor
from gristmill.processors.conversation import text_of
from gristmill.processors.refusals import Refused
from gristmill.upstream import usage
from gristmill.upstream.errors import UpstreamError, bad_answer

Path = Literal["/chat/completions", "/embeddings", "/responses"]

# What an answer is not one without.
_ANSWER_KEYS: dict[Path, str] = {
    "/chat/completions": "choices",
    "/embeddings": "data",
    "/responses": "output",
}


class CompletionConfig(BaseModel):
    path: Path = "/chat/completions"


class CompletionInput(RootModel[dict[str, Any]]):
    """The request body for the path, as the endpoint has it. GRISTMILL_LLM_MODEL fills in for `model`."""

    @model_validator(mode="after")
    def _answers_at_once(self) -> Self:
        for name in ("stream", "background"):
            if self.root.get(name):
                raise PydanticCustomError(f"{name}_not_supported", f"A batch takes no requests with `{name}`")
        return self


class Completion(Processor[CompletionInput, CompletionConfig]):
    name: ClassVar[str] = "completion"
    description: ClassVar[str] = "Passes a request body to the model's endpoint and keeps the answer."
    input_model = CompletionInput
    config_model = CompletionConfig
    uses_upstream: ClassVar[bool] = True

    async def run(self, given: CompletionInput, context: Context[CompletionConfig]) -> Outcome:
        path = context.config.path
        try:
            upstream = refusals.configured(context.services.upstream)
            body = {"model": upstream.model, **given.root} if upstream.model else given.root
            answer = (await upstream.post(path, body, request_id=context.idempotency_key)).body
            if not isinstance(answer.get(_ANSWER_KEYS[path]), list) or not answer[_ANSWER_KEYS[path]]:
                raise bad_answer(f"it has no {_ANSWER_KEYS[path]}")
        except Refused as refused:
            return refused.outcome
        except UpstreamError as error:
            return error.outcome()
        call = usage.call(body, answer)
        cost = upstream.cost(call.prompt_tokens, call.completion_tokens)
        return Success(answer, _content(path, answer), Usage(main_response=call, cost_microusd=cost))


def _content(path: Path, answer: dict[str, Any]) -> str | None:
    """The answer's text, for those who read results without looking into the body."""
    messages: list[Any] = []
    if path == "/chat/completions":
        messages = [answer["choices"][0].get("message")] if isinstance(answer["choices"][0], dict) else []
    elif path == "/responses":
        messages = answer["output"]
    return "".join(text_of(message) for message in messages if isinstance(message, dict)) or None
