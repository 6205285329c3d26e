"""What the served OpenAPI document says, for tests that send anything to every route."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import httpx2
from fastapi import FastAPI
from hypothesis import settings

from gristmill.api.docs import document

# Hypothesis profile `fuzz`: `make fuzz`. Else a short form, which is the same on every machine.
LONG = settings.get_current_profile_name() == "fuzz"
# Refusals of what is no route, or no method of it.
_NO_ROUTE = {404: "not_found", 405: "method_not_allowed"}


@dataclass(repr=False)
class Operation:
    """One method of one path, as documented."""

    method: str
    path: str  # with its {parameters}
    words: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How Hypothesis shows it. Else it writes out the fields of dataclasses, for all operations more than it bears."""
        printer.text(repr(self))

    @property
    def name(self) -> str:
        return str(self.words["operationId"])

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"{([a-z_]+)", self.path)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        with_slashes = "{custom_id" in self.path or "/limits/" in self.path
        anything = "(?s:.*)" if with_slashes else "[^/]+"
        return re.compile(anything.join(re.escape(part) for part in re.split(r"{[a-z_]+}", self.path)))

    @property
    def query(self) -> list[str]:
        return [one["name"] for one in self.words.get("parameters", ()) if one["in"] == "query"]

    @property
    def takes_json(self) -> bool:
        return "application/json" in self.words.get("requestBody", {}).get("content", {})

    @property
    def statuses(self) -> set[int]:
        return {int(status) for status in self.words["responses"]}


def operations(app: FastAPI) -> list[Operation]:
    return list(operations_of(document(app)))


def operations_of(words: Mapping[str, Any]) -> Iterator[Operation]:
    """Of a document as it is served."""
    for path, item in words["paths"].items():
        for method, operation in item.items():
            yield Operation(method.upper(), path, operation)


def check(answer: httpx2.Response, among: Sequence[Operation]) -> None:
    """Its status is documented for its method and path, a refusal has the one shape, and nothing says 500."""
    status, text = answer.status_code, answer.text
    where = f"{answer.request.method} {answer.request.url}: {text}"
    assert status < 500, where
    if status >= 400 and answer.request.method != "HEAD":
        body = answer.json()
        assert (body["data"], body["error"]["status"], len(body["error"]["errors"]) <= 100) == (
            None,
            status,
            True,
        )
    known = matching(answer.request, among)
    if status not in {status for one in known for status in one.statuses}:
        assert status in _NO_ROUTE, where
        if answer.request.method != "HEAD":
            assert answer.json()["error"]["code"] == _NO_ROUTE[status], where


def matching(request: httpx2.Request, among: Sequence[Operation]) -> list[Operation]:
    """The operations that a request may have met. Ids have no slash in them, custom ids may."""
    path = unquote(request.url.raw_path.decode("ascii").partition("?")[0], errors="replace")
    method = "GET" if request.method == "HEAD" else request.method
    return [one for one in among if one.method == method and one.pattern.fullmatch(path)]
