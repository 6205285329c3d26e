"""Processors that need neither a model nor a network."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, RootModel, SecretStr

from gristmill.domain.outcomes import Failure, ItemError, Outcome, Retry, Success, Turn
from gristmill.domain.retry import RetryPolicy
from gristmill.domain.sources import FileSource
from gristmill.domain.usage import Call, Usage
from gristmill.processors.base import Context, Processor
from gristmill.processors.fields import CanonicalUUID


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


class AnyJson(RootModel[Any]):
    """Whatever JSON can say."""


class Anything(Processor[AnyJson, NoConfig]):
    """Takes what the service takes, and no less."""

    name: ClassVar[str] = "anything"
    description: ClassVar[str] = "Answers its input, which may be any JSON."
    input_model = AnyJson
    config_model = NoConfig

    async def run(self, given: AnyJson, context: Context[NoConfig]) -> Outcome:
        return Success(output=given.root)


class FileInput(BaseModel):
    file_id: CanonicalUUID


class Reader(Processor[FileInput, NoConfig]):
    """Answers with how many bytes a file has."""

    name: ClassVar[str] = "reader"
    description: ClassVar[str] = "Counts the bytes of a file."
    input_model = FileInput
    config_model = NoConfig

    async def run(self, given: FileInput, context: Context[NoConfig]) -> Outcome:
        async with context.services.open_source(context.tenant_id, FileSource(given.file_id)) as source:
            return Success(output={"filename": source.filename, "bytes": source.path.stat().st_size})


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
    file_name: str | None = None  # what lists of tasks call it


class ScriptConfig(BaseModel):
    do: Literal["succeed", "fail", "retry", "wait", "raise", "hang"] | None = None  # of every item
    password: SecretStr | None = None  # not used: a secret that a configuration may hold


class Scripted(Processor[Script, ScriptConfig]):
    """Does what its input says."""

    name: ClassVar[str] = "scripted"
    description: ClassVar[str] = "Does what its input says."
    input_model = Script
    config_model = ScriptConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"SCRIPTED_FAIL": {"do": "fail"}}
    retry = RetryPolicy(base_seconds=0.02, factor=1.0, max_seconds=0.1)

    def history_id(self, given: Script) -> int | None:
        return given.history_id

    def item_name(self, given: Script) -> str | None:
        return given.file_name

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


class Dose(BaseModel):
    """What one item does to the process that runs it."""

    text: str
    seconds: Annotated[float, Field(ge=0)] = 0.0
    do: Literal["succeed", "segfault", "be_killed", "exhaust"] = "succeed"


class Poison(Processor[Dose, NoConfig]):
    """Some items are poison: they take the worker's process down, or all the memory it may have."""

    name: ClassVar[str] = "poison"
    description: ClassVar[str] = "Answers its input, unless it is told to break its process."
    input_model = Dose
    config_model = NoConfig

    async def run(self, given: Dose, context: Context[NoConfig]) -> Outcome:
        await asyncio.sleep(given.seconds)
        match given.do:
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "be_killed":  # as the system does to who takes too much memory
                os.kill(os.getpid(), signal.SIGKILL)
            case "exhaust":
                _exhaust()
        return Success(output={"text": given.text})


def _exhaust() -> None:
    """All that a limit of 64 MiB more than now leaves. Raises MemoryError, wherever that happens to be."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 64 * 1024**2, before[1]))
    try:
        hoard = []
        while True:
            hoard.append(bytearray(1024**2))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Entry(BaseModel):
    """One item whose runs are counted by somebody else than the service."""

    text: str
    seconds: Annotated[float, Field(ge=0)] = 0.0
    retries: Annotated[int, Field(ge=0)] = 0  # so many attempts ask for another
    fails: bool = False
    history_id: int | None = None  # the chat to continue: `text` is said, and answered in capitals


class LedgerConfig(BaseModel):
    ledger: str  # a file that every process on this machine appends to


class Recorded(Processor[Entry, LedgerConfig]):
    """Writes the begin and the end of each run into a file, which outlives the process that is killed."""

    name: ClassVar[str] = "recorded"
    description: ClassVar[str] = "Answers in capitals, and writes down each of its runs."
    input_model = Entry
    config_model = LedgerConfig
    retry = RetryPolicy(base_seconds=0.02, factor=1.0, max_seconds=0.1)

    def history_id(self, given: Entry) -> int | None:
        return given.history_id

    async def run(self, given: Entry, context: Context[LedgerConfig]) -> Outcome:
        _note(context, "begin")
        await asyncio.sleep(given.seconds)
        _note(context, "end")
        if context.attempt <= given.retries:
            return Retry(_error("not yet", retryable=True))
        if given.fails:
            return Failure(_error("as asked"))
        reply = given.text.upper()
        turn = None if given.history_id is None else Turn(given.text, reply, given.history_id)
        return Success(given.text, reply, turn=turn)


def _note(context: Context[LedgerConfig], what: str) -> None:
    """One short write in append mode: whole, whoever else writes, and kept when this process is killed after it."""
    run = f"{context.batch_id} {context.ordinal} {context.attempt}"
    line = f"{what} {os.getpid()} {run} {time.time()}\n".encode()
    ledger = os.open(context.config.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(ledger, line)
    finally:
        os.close(ledger)


def _error(message: str, *, retryable: bool = False) -> ItemError:
    return ItemError(500, "scripted", message, retryable=retryable)


def _usage(given: Script) -> Usage | None:
    return Usage(main_response=Call("scripted", "main_response", given.tokens, 0)) if given.tokens else None


def _turn(given: Script) -> Turn | None:
    if not given.chat and given.history_id is None:
        return None
    return Turn(user_message="scripted", reply=str(given.answer), history_id=given.history_id)
