"""Asking a model about one part of a document after the other; each answer is kept, so the next attempt goes on from there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from gristmill.domain.checkpoints import Checkpoint
from gristmill.processors.base import Context
from gristmill.processors.output_schema import OutputSchema
from gristmill.processors.structured import Asking

STAGE = "ASKING"


class Question(NamedTuple):
    instructions: str
    text: str


class Answers:
    """To the first questions of an item, over all of its attempts."""

    def __init__(self, digest: str, values: list[Any] | None = None, asked_again: int = 0) -> None:
        self.values = values or []
        self.asked_again = asked_again
        self._digest = digest

    @classmethod
    def of(cls, saved: Checkpoint | None, digest: str) -> "Answers":
        """Those that were saved, if they are about the same text."""
        kept = orjson.loads(saved.data) if saved and saved.data else {}
        if kept.get("digest") != digest:
            return cls(digest)
        return cls(digest, kept["values"], kept["asked_again"])

    def as_text(self) -> str:
        kept = {"digest": self._digest, "values": self.values, "asked_again": self.asked_again}
        return orjson.dumps(kept).decode()


async def ask_all(
    context: Context[Any], asking: Asking, questions: Sequence[Question], schema: OutputSchema, digest: str
) -> Answers:
    """One answer each. Raises UpstreamError, and what Context.save raises; what has been answered is kept by then."""
    answers = Answers.of(await context.checkpoint(), digest)
    await _save(context, answers, len(questions))
    for question in questions[len(answers.values) :]:
        before = asking.asked_again
        answers.values.append(await asking.ask(question.instructions, question.text, schema))
        answers.asked_again += asking.asked_again - before
        await _save(context, answers, len(questions))
    return answers


async def _save(context: Context[Any], answers: Answers, total: int) -> None:
    await context.save(STAGE, answers.as_text(), done=len(answers.values), total=total)
