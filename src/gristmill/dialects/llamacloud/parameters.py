"""Product parameters as that system has them, and the configurations of our processors: there and back.

What our processors do not know is passed over, save what would give another result than was asked for: that is refused.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from gristmill.dialects.llamacloud.words import PROCESSORS, Lenient
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import problems
from gristmill.processors.documents import MAX_PAGE
from gristmill.processors.parse import Parse

_RANGE = re.compile(r" *([1-9][0-9]{0,5}) *(?:- *([1-9][0-9]{0,5}) *)?")
_MAX_SELECTION = 1000  # characters
WEBHOOKS = ("webhook_configurations", "webhook_configuration_ids")


class PageRanges(Lenient):
    max_pages: int | None = Field(None, ge=1)
    target_pages: str | None = Field(None, max_length=_MAX_SELECTION)


class CropBox(Lenient):
    top: float | None = None
    right: float | None = None
    bottom: float | None = None
    left: float | None = None


class Parameters(Lenient):
    """Webhooks come with a job or a batch; in a configuration they are refused: nobody would be told."""

    tier: str
    version: str = Field("latest", max_length=64)
    webhook_configurations: list[Any] | None = None
    webhook_configuration_ids: list[Any] | None = None

    def check(self, at: str) -> None:
        """Raises Invalid."""
        for name in WEBHOOKS:
            if getattr(self, name):
                raise _refused(f"{at}/{name}", "name webhooks with the job or the batch")


class ParseParameters(Parameters):
    tier: Literal["fast", "cost_effective", "agentic", "agentic_plus"]
    page_ranges: PageRanges | None = None
    crop_box: CropBox | None = None


class ExtractParameters(Parameters):
    data_schema: dict[str, Any]
    system_prompt: str | None = None
    tier: Literal["cost_effective", "agentic", "agentic_plus", "turbo"] = "agentic"
    target_pages: str | None = Field(None, max_length=_MAX_SELECTION)
    max_pages: int | None = Field(None, ge=1)
    extraction_target: Literal["per_doc", "per_page", "per_table_row"] = "per_doc"
    spreadsheet_mode: bool = False


Config = tuple[dict[str, Any], dict[str, Any]]  # of our processor; and what is remembered of the parameters


def read(product_type: str, given: Mapping[str, Any], at: str = "") -> Config:
    """`at`: where in the body the parameters are. Raises Invalid."""
    model: type[Parameters] = ParseParameters if product_type == "parse_v2" else ExtractParameters
    found, wrong = problems.check(model, given)
    if found is None:
        raise Invalid([replace(one, pointer=at + one.pointer) for one in wrong])
    found.check(at)
    config = _parse(found, at) if isinstance(found, ParseParameters) else _extract(found, at)
    return config, {"tier": found.tier, "version": found.version}


def _parse(given: ParseParameters, at: str) -> dict[str, Any]:
    if given.crop_box is not None and any(given.crop_box.model_dump().values()):
        raise _refused(f"{at}/crop_box", "pages are not cropped here: leave crop_box out")
    wanted = given.page_ranges or PageRanges()
    mode = "fast" if given.tier == "fast" else "agentic"
    return {"mode": mode} | _pages(wanted.target_pages, wanted.max_pages, f"{at}/page_ranges/target_pages")


def _extract(given: Parameters, at: str) -> dict[str, Any]:
    assert isinstance(given, ExtractParameters)
    if given.extraction_target != "per_doc":
        raise _refused(f"{at}/extraction_target", "only per_doc: one object for a document")
    if given.spreadsheet_mode:
        raise _refused(
            f"{at}/spreadsheet_mode", "spreadsheets are read as documents: leave spreadsheet_mode out"
        )
    config = {"schema": given.data_schema, "instructions": given.system_prompt or ""}
    return config | _pages(given.target_pages, given.max_pages, f"{at}/target_pages")


def _pages(selection: str | None, most: int | None, at: str) -> dict[str, Any]:
    """A selection goes before a number of pages. One that leaves pages out between others cannot be had."""
    if selection is None or not selection.strip():
        return {} if most is None else {"max_pages": min(most, MAX_PAGE)}
    numbers: set[int] = set()
    for part in selection.split(","):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 1 <= first <= last <= MAX_PAGE:
            raise _refused(at, f"pages 1 to {MAX_PAGE}, like 1-5")
        numbers.update(range(first, last + 1))
    if len(numbers) != max(numbers) - min(numbers) + 1:
        raise _refused(at, "only pages that follow each other, like 3-7: leave none out in between")
    return {"first_page": min(numbers), "last_page": max(numbers)}


def _refused(at: str, detail: str) -> Invalid:
    return Invalid([Problem(at, "not_supported", detail)])


# --- and back -------------------------------------------------------------------------------------------------


def shown(product_type: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What our processor will do, in their words."""
    return {
        "product_type": product_type,
        "tier": tier(PROCESSORS[product_type], config, facts),
        "version": facts.get("version", "latest"),
    } | (_parse_shown(config) if product_type == "parse_v2" else _extract_shown(config))


def tier(processor: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """As it was chosen, else what comes nearest."""
    fast = processor == Parse.name and config.get("mode", "fast") == "fast"
    return str(facts.get("tier") or ("fast" if fast else "agentic"))


def _parse_shown(config: Mapping[str, Any]) -> dict[str, Any]:
    chosen = _pages_shown(config)
    return {"page_ranges": chosen} if chosen else {}


def _extract_shown(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data_schema": config["schema"],
        "system_prompt": config.get("instructions") or None,
        "extraction_target": "per_doc",
        **_pages_shown(config),
    }


def _pages_shown(config: Mapping[str, Any]) -> dict[str, Any]:
    first, last = config.get("first_page", 1), config.get("last_page")
    if first > 1 or last is not None:
        return {"target_pages": f"{first}-{MAX_PAGE if last is None else last}"}
    most = config.get("max_pages")
    return {} if most is None else {"max_pages": most}


# Where a finding about our configuration lies in their parameters.
PLACES = {"/config/schema": "/data_schema", "/config/instructions": "/system_prompt", "/config": ""}


@contextmanager
def placed(at: str) -> Iterator[None]:
    """What is found wrong with a configuration within the block is told in the words it was written in."""
    try:
        yield
    except Invalid as wrong:
        raise Invalid([_placed(one, at) for one in wrong.problems]) from None


def _placed(problem: Problem, at: str) -> Problem:
    for ours, theirs in PLACES.items():
        if problem.pointer.startswith(ours):
            return replace(problem, pointer=at + theirs + problem.pointer.removeprefix(ours))
    return problem
