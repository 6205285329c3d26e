"""From a body in that system's words to a batch of ours; what is wrong is told in those words."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from gristmill.dialects.making import Making, View
from gristmill.domain.errors import Invalid, Problem
from gristmill.store.batches import Batch
from gristmill.store.new_batches import NewBatch

MAX_BODY_BYTES = 1024 * 1024
MAX_FILES = 1000  # of one batch

Places = Mapping[str, str]  # where a finding of ours about a create lies in the body that it was made from


async def made(
    making: Making,
    given: Mapping[str, Any],
    finished: Callable[[NewBatch], NewBatch],
    view: View,
    places: Places,
) -> Response:
    """As `Making.made`. Raises Invalid with pointers into the foreign body."""

    def shown(batch: Batch) -> dict[str, Any]:
        if batch.total > MAX_FILES:  # some came in since it was looked at
            raise too_many_files()
        return view(batch)

    try:
        return await making.made(given, finished, shown)
    except Invalid as wrong:
        raise Invalid([_placed(one, places) for one in wrong.problems]) from None


def too_many_files() -> Invalid:
    detail = f"the directory has more than {MAX_FILES} files, the most that a batch takes"
    return Invalid([Problem("/source_directory_id", "too_many_files", detail)])


def _placed(problem: Problem, places: Places) -> Problem:
    for ours, theirs in places.items():
        if problem.pointer.startswith(ours):
            return replace(problem, pointer=theirs + problem.pointer.removeprefix(ours))
    return problem
