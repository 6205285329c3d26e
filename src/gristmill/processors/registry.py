"""Which processors there are: our own, and those that installed packages bring by entry points."""

import inspect
import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from gristmill.processors.base import Processor

GROUP = "gristmill.processors"
_OWN = "gristmill."
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

log = logging.getLogger(__name__)

AnyProcessor = Processor[Any, Any]


@cache
def registry() -> Mapping[str, AnyProcessor]:
    """All processors by name. Looked up once per process: a package installed later shows after a restart."""
    return MappingProxyType(collect(entry_points(group=GROUP)))


def get(name: str) -> AnyProcessor:
    """Raises KeyError for an unknown name."""
    return registry()[name]


def collect(found: Iterable[EntryPoint]) -> dict[str, AnyProcessor]:
    """One instance of each. The unusable are left out with a warning; of two with one name our own wins."""
    processors: dict[str, AnyProcessor] = {}
    for point in sorted(found, key=lambda point: (not point.value.startswith(_OWN), point.name, point.value)):
        processor = _load(point)
        if processor is None:
            continue
        if processor.name in processors:
            log.warning(
                "processor %s of entry point %s is left out: the name is taken", processor.name, point.value
            )
            continue
        processors[processor.name] = processor
    return processors


def _load(point: EntryPoint) -> AnyProcessor | None:
    try:
        processor = _checked(point.load()())
    except Exception as error:  # whatever a stranger's package does at import, the service starts
        log.warning(
            "the processor of entry point %s (%s) cannot be used: %s", point.name, point.value, _reason(error)
        )
        return None
    return processor


class _Unusable(Exception):
    """Breaks a rule of the contract; the text says which."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _Unusable) else type(error).__name__


def _checked(candidate: object) -> AnyProcessor:
    """Raises _Unusable, or whatever making the models' JSON Schemas raises."""
    if not isinstance(candidate, Processor):
        raise _Unusable("it is no Processor")
    if not isinstance(getattr(candidate, "name", None), str) or not _NAME.fullmatch(candidate.name):
        raise _Unusable("its name must match [a-z][a-z0-9_]{0,63}")
    if not inspect.iscoroutinefunction(candidate.run):
        raise _Unusable("its run is no async function")
    for attribute in ("input_model", "config_model"):
        model = getattr(candidate, attribute, None)
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            raise _Unusable(f"its {attribute} is no pydantic model")
        model.model_json_schema()
    return candidate
