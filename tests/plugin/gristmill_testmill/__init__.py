"""Three processors that need neither a model nor a network."""

import asyncio
import time
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from gristmill.domain.outcomes import Failure, ItemError, Outcome, Retry, Success, Turn
from gristmill.domain.retry import RetryPolicy
from gristmill.domain.usage import Call, Usage
from gristmill.processors.base import Context, Processor


class NoConfig(BaseModel):
    """Nothing to configure."""


class Text(BaseModel):
    text: str


class Noop(Processor[Text, NoConfig]):
    """Answers what it was given: what an item costs without any work."""

    name: ClassVar[str] = "noop"
    description: ClassVar[str] = "Answers its input."
    input_model = Text
    config_model = NoConfig

    async def run(self, given: Text, context: Context[NoConfig]) -> Outcome:
        return Success(output={"text": given.text})


class Clock(Processor[Text, NoConfig]):
    """Answers when it began, in Unix seconds: how long an item waited for its start."""

    name: ClassVar[str] = "clock"
    description: ClassVar[str] = "Answers the time."
    input_model = Text
    config_model = NoConfig

    async def run(self, given: Text, context: Context[NoConfig]) -> Outcome:
        return Success(output={"began": time.time()})


class Script(BaseModel):
    """What shall happen, in the order of the fields; at last `do`."""

    sleep_seconds: Annotated[float, Field(ge=0)] = 0.0
    wait_until: float = 0.0  # Unix seconds: before, there is no capacity
    retries: Annotated[int, Field(ge=0)] = 0  # so many attempts ask for another
    delay_seconds: float | None = None  # of each retry and wait
    do: Literal["succeed", "fail", "retry", "wait", "raise", "hang"] = "succeed"
    answer: Any = "done"
    tokens: int = 0  # used by the answer
    history_id: int | None = None  # the chat to continue, with `answer` as the reply
    chat: bool = False  # begin or continue a chat


class ScriptConfig(BaseModel):
    do: Literal["succeed", "fail", "retry", "wait", "raise", "hang"] | None = None  # of every item


class Scripted(Processor[Script, ScriptConfig]):
    """Does what its input says."""

    name: ClassVar[str] = "scripted"
    description: ClassVar[str] = "Does what its input says."
    input_model = Script
    config_model = ScriptConfig
    retry = RetryPolicy(base_seconds=0.02, factor=1.0, max_seconds=0.1)

    def history_id(self, given: Script) -> int | None:
        return given.history_id

    async def run(self, given: Script, context: Context[ScriptConfig]) -> Outcome:
        await asyncio.sleep(given.sleep_seconds)
        if time.time() < given.wait_until:
            return Retry(_error("no capacity", retryable=True), given.delay_seconds, waiting=True)
        if context.attempt <= given.retries:
            return Retry(_error("not yet", retryable=True), given.delay_seconds)
        match context.config.do or given.do:
            case "fail":
                return Failure(_error("as asked"), _usage(given))
            case "retry":
                return Retry(_error("again", retryable=True), given.delay_seconds, usage=_usage(given))
            case "wait":
                return Retry(_error("no capacity", retryable=True), given.delay_seconds, waiting=True)
            case "raise":
                raise RuntimeError("as asked")
            case "hang":
                await asyncio.Event().wait()
        return Success(given.answer, str(given.answer), _usage(given), _turn(given))


def _error(message: str, *, retryable: bool = False) -> ItemError:
    return ItemError(500, "scripted", message, retryable=retryable)


def _usage(given: Script) -> Usage | None:
    return Usage(main_response=Call("scripted", "main_response", given.tokens, 0)) if given.tokens else None


def _turn(given: Script) -> Turn | None:
    if not given.chat and given.history_id is None:
        return None
    return Turn(user_message="scripted", reply=str(given.answer), history_id=given.history_id)
