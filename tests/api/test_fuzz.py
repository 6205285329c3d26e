"""No input makes a 500: random bodies, queries, paths and headers on every route."""

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from belongings import Belongings
from documented import LONG, Operation, check, operations
from gristmill.db import Database
from gristmill.store import keys
from service import Caller, Service, new_tenant

CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
# `make fuzz`: 60,000 requests of all kinds and 10 x 4,000 of one kind each.
BOUNDED = settings(
    max_examples=4000 if LONG else 100,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=CHECKS,
)
EVERYTHING = settings(BOUNDED, max_examples=60_000 if LONG else 200)
pytestmark = pytest.mark.timeout(7200 if LONG else 120)

# Values that are wrong in one way or another in most places.
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            1,
            2**31,
            2**63 - 1,
            -(2**63),
            0.5,
            1e308,
            "",
            " ",
            "x" * 300,
            [],
            {},
            [[]],
        ]
    ),
    st.sampled_from(
        [
            "\x00",
            "\x1b[2J",
            "\u202e",
            "💥",
            "ÿ",
            "../..",
            "%s%n",
            "'; DROP TABLE batch; --",
            "NaN",
            "2026-11-22",
        ]
    ),
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.recursive(
        st.none(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
)
COPIED = ODD.map(copy.deepcopy)  # what is changed in turn: a list that is put into itself has no end
_NAMES = """agent_id processor config requests webhook name metadata collection priority deadline_seconds max_attempts
item_timeout_seconds max_concurrency start_paused on_invalid source file_id directory_id format column_mapping
status error_codes custom_ids model instructions parameters mcp_servers version url filename purpose file_ids x"""
_PARAMETERS = """limit offset cursor status processor agent_id created_after created_before name collection created_by
metadata.a error_code custom_id external_user_id filename media_type purpose files page_num page_size type file_name batch_id"""
_METHODS = "GET POST PUT PATCH DELETE HEAD OPTIONS"
NAMES = st.sampled_from(_NAMES.split())
PARAMETERS = st.sampled_from(_PARAMETERS.split())
METHODS = st.sampled_from(_METHODS.split())
GETS = (
    "batches",
    "batches/{id}",
    "batches/{id}/results",
    "batches/{id}/results/req-0",
    "batches/{id}/deliveries",
    "agents",
    "agents/{agent}",
    "agents/{agent}/versions",
    "files",
    "directories",
    "directories/{directory}",
    "directories/{directory}/files",
    "chats",
    "chats/1/messages",
    "processors",
    "tasks",
    "tasks/{id}-0",
    "processors/noop",
)


@pytest.fixture
def documented(service: Service) -> list[Operation]:
    return operations(service.app)


@pytest.fixture(autouse=True)
def _nothing_goes_wrong_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR or one.exc_info] == []


@pytest.fixture
async def agent_id(caller: Caller) -> str:
    return await caller.agent()


@pytest.fixture
async def directory_id(caller: Caller) -> str:
    return await caller.directory()


@pytest.fixture
async def batch_id(caller: Caller) -> str:
    return str((await caller.batch(1))["id"])


def _parents(value: Any) -> list[Any]:
    """Every object and array within a value."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list)) and one:
            found.append(one)
            waiting += one.values() if isinstance(one, dict) else one
    return found


def mutated(draw: Any, body: dict[str, Any]) -> dict[str, Any]:
    """The body with one to three values replaced, added or taken out."""
    changed = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        parent = draw(st.sampled_from(_parents(changed)))
        if isinstance(parent, list):
            parent[draw(st.integers(0, len(parent) - 1))] = draw(COPIED)
        elif draw(st.booleans()):
            parent[draw(st.sampled_from(sorted(parent)))] = draw(COPIED)
        else:
            parent[draw(NAMES)] = draw(COPIED)
        if not _parents(changed):
            break
    return changed


@BOUNDED
@given(data=st.data())
async def test_any_change_of_a_good_body_is_taken_or_refused(
    caller: Caller, documented: list[Operation], agent_id: str, directory_id: str, data: st.DataObject
) -> None:
    server = {"name": "a", "url": "https://a.example.com/", "headers": {"A": "b"}}
    webhook = {"url": "https://a.example.com/", "events": ["completed"], "secret": "s"}
    asked = {"custom_id": "a", "message": "hello", "history_id": 1, "attached_file_uuids": [agent_id]}
    given_input = {"custom_id": "a", "input": {"text": "x"}}
    path, body = data.draw(
        st.sampled_from(
            [
                ("batches", {"agent_id": agent_id, "requests": [asked, asked], "webhook": webhook}),
                (
                    "batches",
                    {"processor": "noop", "requests": [given_input], "metadata": {"a": "b"}, "config": {}},
                ),
                ("agents", {"name": "a", "model": "m", "parameters": {"a": 1}, "mcp_servers": [server]}),
                (f"agents/{agent_id}/publish", {"version": 1}),
                ("batches/validate", {"agent_id": agent_id, "requests": [asked], "on_invalid": "fail_items"}),
                (
                    f"batches/{agent_id}/retry",
                    {"status": ["failed"], "error_codes": [500], "custom_ids": ["a"]},
                ),
                ("files", {"url": "https://127.0.0.1/x", "filename": "x", "purpose": "y"}),
                ("directories", {"name": "a"}),
                (f"directories/{directory_id}/files", {"file_ids": [agent_id, agent_id]}),
            ]
        )
    )
    answer = await caller.post(f"/api/v1/{path}", mutated(data.draw, body))
    check(answer, documented)


@BOUNDED
@given(
    text=st.binary(max_size=60),
    content_type=st.sampled_from(["application/json", "multipart/form-data; boundary=b"]),
)
async def test_any_bytes_are_taken_or_refused(
    caller: Caller, documented: list[Operation], directory_id: str, text: bytes, content_type: str
) -> None:
    for path in ("batches", "agents", "files", "directories", f"directories/{directory_id}/zip"):
        answer = await caller.send(
            "POST", f"/api/v1/{path}", content=text, headers={"content-type": content_type}
        )
        check(answer, documented)


@BOUNDED
@given(
    path=st.sampled_from(GETS),
    query=st.lists(st.tuples(PARAMETERS, ODD.map(str) | st.integers(0, 70).map(str)), max_size=3),
    raw=st.binary(max_size=6),
)
async def test_any_query_is_answered(
    caller: Caller,
    documented: list[Operation],
    batch_id: str,
    agent_id: str,
    directory_id: str,
    path: str,
    query: list[tuple[str, str]],
    raw: bytes,
) -> None:
    text = "&".join(f"{name}={quote(value.encode('utf-8', 'replace'))}" for name, value in query)
    target = f"/api/v1/{path.format(id=batch_id, agent=agent_id, directory=directory_id)}?{text}&{quote(raw, safe='=&')}"
    answer = await caller.get(target)
    check(answer, documented)
    orjson.loads(answer.content)


@BOUNDED
@given(method=METHODS, segments=st.lists(st.text(max_size=8), max_size=4))
async def test_any_path_is_answered(
    caller: Caller, documented: list[Operation], method: str, segments: list[str]
) -> None:
    start = ["batches", "agents", "files", "chats", "deliveries", "processors"][len(segments)]
    path = "/".join(quote(one.encode("utf-8", "replace"), safe="") for one in [start, *segments])
    answer = await caller.send(method, f"/api/v1/{path}")
    check(answer, documented)


@BOUNDED
@given(accept=st.binary(max_size=30), key=st.binary(max_size=30), content_type=st.binary(max_size=30))
async def test_any_header_is_answered(
    caller: Caller, documented: list[Operation], accept: bytes, key: bytes, content_type: bytes
) -> None:
    headers = [
        (b"accept", accept),
        (b"x-auth-token", key),
        (b"x-api-key", caller.key.encode()),
        (b"content-type", content_type),
    ]
    client = caller.service.client
    for method in ("GET", "POST"):
        answer = await client.request(method, "/api/v1/batches", headers=headers, content=b"{}")
        check(answer, documented)


# --- every route, as the OpenAPI document lists it ---------------------------------------------------------------

UUID = "550e8400-e29b-41d4-a716-446655440000"
GOOD: dict[str, Any] = {
    "create_batch": {
        "processor": "noop",
        "requests": [{"custom_id": "a", "input": {"text": "x"}}, {"custom_id": "b", "input": {"text": ""}}],
        "webhook": {"url": "https://a.example.com/", "events": ["completed"], "secret": "s"},
        "metadata": {"a": "b"},
    },
    "change_batch": {"name": "a", "metadata": {"a": "b"}, "retention_days": 3},
    "retry_batch": {"status": ["failed"], "error_codes": [500], "custom_ids": ["item-0"]},
    "create_agent": {
        "name": "a",
        "instructions": "b",
        "model": "m",
        "parameters": {"temperature": 0.5},
        "mcp_servers": [{"name": "a", "url": "https://a.example.com/", "headers": {"A": "b"}}],
    },
    "publish_agent": {"version": 1},
    "create_configuration": {"name": "a", "processor": "scripted", "config": {"do": "fail", "password": "p"}},
    "create_key": {"name": "a", "scopes": ["batches:read"], "expires_in_seconds": 60},
    "rotate_key": {"overlap_seconds": 10, "expires_in_seconds": 60},
    "upload_file": {"url": "https://127.0.0.1/x", "filename": "x", "purpose": "y"},
    "create_directory": {"name": "a"},
    "put_limit": {"max_in_flight": 5},
    "add_directory_files": {"file_ids": [UUID]},
}
GOOD |= {
    "validate_batch": GOOD["create_batch"],
    "change_agent": GOOD["create_agent"],
    "replace_agent": GOOD["create_agent"],
    "change_configuration": {"name": "b", "config": {"do": "succeed"}},
    "upload_into_directory": GOOD["upload_file"],
}
OWN_KEY: dict[str, Any] = {
    "processor": "completion",
    "requests": [{"custom_id": "a", "input": {"messages": [{"role": "user", "content": "x"}]}}],
    "upstream": {"api_key": "sk-x", "model": "m"},
}
ALSO_GOOD = {
    "create_batch": OWN_KEY,
    "validate_batch": OWN_KEY,
    "retry_batch": {"upstream": {"api_key": None}},
}
# What there is to refuse: the URL, the file, nothing that failed.
NOT_TAKEN = {"upload_file": 400, "upload_into_directory": 400, "add_directory_files": 400, "retry_batch": 400}
JSON = "application/json"
TYPES = st.just(JSON) | st.sampled_from(  # what is right more often than not: else few requests come far
    [
        "application/json; charset=utf-8",
        "text/plain",
        "multipart/form-data; boundary=b",
        "",
        "x",
    ]
)
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n--b--\r\n'
ACCEPTS = st.sampled_from(["*/*", "text/csv", "application/x-ndjson", "application/json;q=0", ",;=", "a/b"])
KEYS = st.sampled_from(["a", '"b"', "c d", '"', "x" * 300])


def bodies(name: str) -> st.SearchStrategy[bytes]:
    """What its route takes, more or less; any JSON; anything."""
    kinds = [
        st.just(b""),
        st.just(FORM),
        st.binary(max_size=60),
        ODD.map(lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)),
        st.dictionaries(NAMES, ODD, max_size=3).map(orjson.dumps),
    ]
    if name in GOOD:
        for good in (GOOD[name], ALSO_GOOD.get(name, GOOD[name])):
            kinds += [st.just(orjson.dumps(good)), st.composite(mutated)(good).map(orjson.dumps)] * 2
    return st.one_of(kinds)


OWN = "its own"  # in place of an id: what is drawn must not depend on what there is


TEXTS = ODD.map(str) | st.sampled_from([UUID, "0", "1", "cfg-1", f"{UUID}-0", "%2e%2e", ".."])
IDS = st.one_of([st.just(OWN)] * 6 + [TEXTS]).map(
    lambda one: quote(one.encode("utf-8", "replace") or b"x", safe="")
)
HEADERS = st.fixed_dictionaries(
    {"content-type": TYPES, "accept": ACCEPTS}, optional={"idempotency-key": KEYS}
)


@dataclass(frozen=True)
class Anything:
    """A request to that operation: the ids of its path by their names, its query, headers, and body."""

    operation: Operation
    ids: dict[str, str]
    pairs: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> str:
        return "&".join(f"{name}={quote(value.encode('utf-8', 'replace'))}" for name, value in self.pairs)

    def path(self, own: dict[str, str]) -> str:
        ids = {name: own[name] if one == quote(OWN) else one for name, one in self.ids.items()}
        return self.operation.path.format(**ids)


def anything(operation: Operation) -> st.SearchStrategy[Anything]:
    names = st.sampled_from([*operation.query, "x"]) | PARAMETERS
    pairs = st.tuples(names, TEXTS | st.integers(-1, 1001).map(str))
    return st.builds(
        Anything,
        st.just(operation),
        st.fixed_dictionaries(dict.fromkeys(operation.path_parameters, IDS)),
        st.just([]) | st.lists(pairs, max_size=3),
        HEADERS,
        st.just(b"") if operation.method == "GET" else bodies(operation.name),
    )


class Anywhere:
    """Requests to any of the operations. Made once: to make strategies takes longer than to draw from them. No dataclass, whose
    fields Hypothesis would write out."""

    def __init__(self, documented: list[Operation]) -> None:
        self.requests = st.one_of([anything(one) for one in documented])


@pytest.fixture
def anywhere(documented: list[Operation]) -> Anywhere:
    return Anywhere(documented)


@pytest.fixture
async def operator(service: Service) -> Caller:
    """Who may go to every route."""
    return await new_tenant(service, ("admin", keys.OPERATE))


async def test_the_good_bodies_are_taken(
    operator: Caller, belongings: Belongings, documented: list[Operation]
) -> None:
    """Else no request comes far."""
    taken = {}
    for one in documented:
        if one.name in GOOD:
            path = one.path.format(**await belongings.ids())
            answer = await operator.send(one.method, path, json=GOOD[one.name])
            taken[one.name] = answer.status_code if answer.status_code >= 300 else 200
    assert taken == dict.fromkeys(GOOD, 200) | NOT_TAKEN
    assert (await operator.post("/api/v1/batches", OWN_KEY)).status_code == 202


@EVERYTHING
@given(data=st.data())
async def test_any_request_to_any_route_is_answered_as_documented(
    operator: Caller,
    belongings: Belongings,
    documented: list[Operation],
    anywhere: Anywhere,
    data: st.DataObject,
) -> None:
    one = data.draw(anywhere.requests)
    path, operation = one.path(await belongings.ids()), one.operation
    answer = await operator.send(
        operation.method, f"{path}?{one.query}".rstrip("?"), headers=one.headers, content=one.body
    )
    event(f"{answer.status_code}")  # --hypothesis-show-statistics
    check(answer, documented)
    if answer.status_code == 204:
        belongings.gone(operation.path)


def test_what_goes_wrong_with_a_request_is_shown_and_not_what_goes_wrong_with_showing_it(
    operator: Caller, belongings: Belongings, documented: list[Operation], anywhere: Anywhere
) -> None:
    """Hypothesis writes the arguments out before it runs a failing case for the last time. A warning that this takes too
    much room is an error here, in place of which Hypothesis says that the data were drawn otherwise."""

    @settings(BOUNDED, max_examples=1, database=None)
    @given(data=st.data())
    def fails(
        operator: Caller,
        belongings: Belongings,
        documented: list[Operation],
        anywhere: Anywhere,
        data: st.DataObject,
    ) -> None:
        raise AssertionError(f"wrong: {data.draw(anywhere.requests).operation}")

    with pytest.raises(AssertionError, match=r"wrong: [A-Z]+ /"):
        fails(operator, belongings, documented, anywhere)


@pytest.fixture
def belongings(operator: Caller, database: Database) -> Belongings:
    return Belongings(operator, database)
