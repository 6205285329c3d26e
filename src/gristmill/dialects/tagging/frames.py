"""What a listener is told, in frames of seed 001: a catch-up, two for each document, one for the end."""

from collections.abc import Sequence
from typing import Any

import orjson

from gristmill.api.parts import Parts
from gristmill.dialects import base
from gristmill.dialects.tagging import words
from gristmill.domain.states import BatchStatus
from gristmill.store import results
from gristmill.store.batches import Batch
from gristmill.store.feed import Position, Window
from gristmill.store.results import Result

MOST_CAUGHT_UP = 1000  # documents in the first frame; those beyond follow as frames of their own
MOST_RUNNING = 1000  # told as being processed at a time

Frame = dict[str, Any]


class Frames:
    """Of one listener. Keeps which documents it was told to be at work, and nothing else of what was."""

    def __init__(self, of: Parts, batch: Batch) -> None:
        self._of = of
        self._batch = batch
        self._caught_up = False
        self._before: list[Frame] = []
        self._running: set[int] = set()  # and has not ended since

    async def of(self, news: Batch | Window) -> list[Frame]:
        if isinstance(news, Window):
            rows = await self._rows(news.ended)
            if self._caught_up:
                return rows
            self._before += [row for row in rows if row["status"] != "processing"]
            return self._catch_up() if len(self._before) >= MOST_CAUGHT_UP else []
        self._batch = news
        begun = await self._begun() if news.processing else []
        return ([] if self._caught_up else self._catch_up()) + begun

    def end(self, batch: Batch) -> Frame:
        kinds = {BatchStatus.COMPLETED: "completed", BatchStatus.CANCELLED: "cancelled"}
        told = f"{batch.success} succeeded, {batch.failed} failed"
        failed = orjson.loads(batch.error)["message"] if batch.error else "The job failed."
        messages = {"completed": f"Completed: {told}", "cancelled": f"Cancelled: {told}", "error": failed}
        kind = kinds.get(batch.status, "error")
        return {
            "type": kind,
            "job_id": batch.dialect_key,
            "total_documents": batch.total,
            "processed_count": batch.success,
            "failed_count": batch.failed,
            "processing_time": words.seconds(batch),
            "message": messages[kind],
        }

    def _catch_up(self) -> list[Frame]:
        self._caught_up = True
        before, self._before = self._before, []
        return [
            {
                "type": "catchup",
                "job_id": self._batch.dialect_key,
                "state": words.state(self._batch),
                "results": before,
            }
        ]

    async def _rows(self, ended: Sequence[tuple[Position, Result]]) -> list[Frame]:
        """Who was not told that a document is being processed is told now: each is told twice."""
        inputs = await self._inputs([result.ordinal for _, result in ended])
        frames = []
        for position, result in ended:
            given = inputs[result.ordinal]
            progress = position.place / self._batch.total
            if result.ordinal not in self._running and result.attempt:
                frames.append(self._processing(result.ordinal, given, progress))
            self._running.discard(result.ordinal)
            row = words.document(self._batch, result, given)
            frames.append({"job_id": self._batch.dialect_key, **row, "progress": progress})
        return frames

    async def _begun(self) -> list[Frame]:
        async with self._of.database.connection() as connection:
            running = await results.running(connection, self._batch, MOST_RUNNING)
        begun = [ordinal for ordinal in running if ordinal not in self._running]
        self._running.update(begun)
        inputs = await self._inputs(begun)
        return [self._processing(ordinal, inputs[ordinal], self._batch.progress) for ordinal in begun]

    async def _inputs(self, ordinals: list[int]) -> dict[int, dict[str, Any]]:
        if not ordinals:
            return {}
        async with self._of.database.connection() as connection:
            texts = await results.inputs(connection, self._batch, ordinals)
        found = {ordinal: orjson.loads(text) for ordinal, text in texts.items()}
        return {ordinal: given if isinstance(given, dict) else {} for ordinal, given in found.items()}

    def _processing(self, ordinal: int, given: dict[str, Any], progress: float) -> Frame:
        return {
            "job_id": self._batch.dialect_key,
            "row_id": ordinal,
            "row_number": ordinal + 1,
            "title": words.title(given),
            "status": "processing",
            "progress": progress,
            "tags": [],
            "error": None,
            "model_name": base.facts(self._batch).get("model_name"),
            "metadata": {},
        }
