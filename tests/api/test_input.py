"""The one gate for JSON, and what a body may be: each bad input is one clear 400, and nothing is stored."""

import time
from contextlib import suppress
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.db import Database
from gristmill.domain.errors import Invalid
from gristmill.intake import json, pieces, runs
from service import Caller, code_of

BATCHES = "/api/v1/batches"
JSON = {"content-type": "application/json"}


def body_with(text: bytes) -> bytes:
    return b'{"processor":"noop","requests":[{"custom_id":"a","input":{"text":%s}}]}' % text


BAD = [
    (b"", "empty_body"),
    (b"   \n", "empty_body"),
    (b"{", "invalid_json"),
    (b"{}x", "invalid_json"),
    (b"{'a':1}", "invalid_json"),
    (b'{"a":1,}', "invalid_json"),
    (b'{"a":01}', "invalid_json"),
    (b'{"a":.5}', "invalid_json"),
    (b'{"a":+1}', "invalid_json"),
    (b"// comment\n{}", "invalid_json"),
    (b"{a:1}", "invalid_json"),
    (b'{"a":NaN}', "invalid_json"),
    (b'{"a":Infinity}', "invalid_json"),
    (b'{"a":-Infinity}', "invalid_json"),
    (b'{"a":"\x01"}', "invalid_json"),
    (b'{"a":"\\x41"}', "invalid_json"),
    (b'{"a":1e400}', "number_out_of_range"),
    (b'{"a":-1e400}', "number_out_of_range"),
    (b'{"a":9223372036854775808}', "number_out_of_range"),
    (b'{"a":-9223372036854775809}', "number_out_of_range"),
    (b'{"a":18446744073709551616}', "number_out_of_range"),
    (b'{"a":1' + b"0" * 300 + b"}", "number_out_of_range"),
    (b'{"a":"\\u0000"}', "nul_character"),
    (b'{"\\u0000":1}', "nul_character"),
    (b'{"a":["b",{"c":"x\\u0000y"}]}', "nul_character"),
    (b'{"a":"\\ud800"}', "lone_surrogate"),
    (b'{"a":"\\udc00x"}', "lone_surrogate"),
    (b'{"\\ud83d":1}', "lone_surrogate"),
    (b"\xef\xbb\xbf{}", "byte_order_mark"),
    ("{}".encode("utf-16"), "byte_order_mark"),
    (b'{"a":"\xff"}', "invalid_utf8"),
    (b'{"a":"\xc3"}', "invalid_utf8"),
    (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
    (b'{"a":"\xc0\x80"}', "invalid_utf8"),
    (b"[]", "invalid_type"),
    (b'"a"', "invalid_type"),
    (b"null", "invalid_type"),
    (b"5", "invalid_type"),
    (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "too_deep"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "too_deep"),
    (b"[" * 100_000, "too_deep"),
]


@pytest.mark.parametrize(("body", "code"), BAD, ids=[f"{n}-{code}" for n, (_, code) in enumerate(BAD)])
async def test_a_body_that_is_not_strict_json_is_refused_by_name(
    caller: Caller, database: Database, body: bytes, code: str
) -> None:
    for path in (BATCHES, "/api/v1/agents"):
        assert code_of(await caller.send("POST", path, content=body, headers=JSON), 400) == code
    async with database.connection() as connection:
        assert (
            await connection.fetchval("SELECT (SELECT count(*) FROM batch) + (SELECT count(*) FROM agent)")
            == 0
        )


GOOD = [
    '"\\u0041\\ud83d\\ude00"',
    '"\\\\u0000 is not a NUL"',
    '"12345678901234567890 is only text"',
    '"\\u0001\\u001b[31m\\u2028"',
    '"' + "x" * 100_000 + '"',
    '"' + "Ünïcödé 🔑 \U0010ffff" + '"',
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
async def test_every_other_text_is_kept_to_the_letter(caller: Caller, text: str) -> None:
    made = await caller.send("POST", BATCHES, content=body_with(text.encode()), headers=JSON)
    assert made.status_code == 202, made.text
    shown = await caller.data(f"{BATCHES}/{made.json()['data']['id']}/results/a")
    assert shown["input"]["text"] == orjson.loads(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a":9223372036854775807,"b":-9223372036854775808}', {"a": 2**63 - 1, "b": -(2**63)}),
        (
            b'{"a":1.7976931348623157e308,"b":5e-324,"c":1e-400}',
            {"a": 1.7976931348623157e308, "b": 5e-324, "c": 0.0},
        ),
        (b'{"a":0.12345678901234567890123}', {"a": 0.12345678901234568}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", None),
        (b' \t\r\n{"":[]} ', {"": []}),
    ],
)
def test_the_gate_takes_all_that_is_strict(text: bytes, value: Any) -> None:
    parsed = json.parse(text, dict)
    assert value is None or parsed == value


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
_values = st.recursive(
    _leaves | _text, lambda inner: st.lists(inner) | st.dictionaries(_text, inner), max_leaves=20
)


@given(st.dictionaries(_text, _values))
def test_the_gate_gives_back_what_was_written(value: dict[str, Any]) -> None:
    assert json.parse(orjson.dumps(value), dict) == value


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[%s]}' % b",".join([b"{}"] * json.MAX_CONTAINERS),
        b'{"a":[[%s]]}' % b",".join([b"1"] * (json.MAX_VALUES + 2)),
        b'{"a":[%s]}' % b",".join([b"1"] * (json.MAX_PIECE_MARKS + 2)),
        b'{"a":[[%s]]}' % b",".join([b"1"] * (json.MAX_PIECE_MARKS + 2)),
        b'{"a":"%s"}' % (b"x" * json.MAX_PIECE_BYTES),
    ],
    ids=["containers", "values", "values beside the requests", "values of a request", "bytes of a request"],
)
def test_more_than_fits_into_memory_or_a_turn_is_refused_before_it_is_made(body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        json.parse(body, dict)
    assert refused.value.code == "too_many_values"


def test_as_many_values_as_that_are_taken() -> None:
    request = b"[%s]" % b",".join([b"1"] * 600_000)
    body = b'{"a":[%s]}' % b",".join([request] * 20)
    assert [len(one) for one in json.parse(body, dict)["a"]] == [600_000] * 20


_pieces_of_json = st.lists(
    st.sampled_from(
        [
            b'"',
            b"\\",
            b'\\"',
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"1",
            b'"a":',
            b'"[":',
            b"[{}]",
            b'{"a":[',
            b"]}",
            b" ",
        ]
    )
).map(b"".join)
_documents = st.dictionaries(_text, st.lists(_values) | _values).map(orjson.dumps)


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("window", [2, 3, 7, 30])
@given(body=_pieces_of_json | _documents | st.tuples(_documents, _pieces_of_json).map(b"".join))
def test_a_large_text_means_what_a_small_one_means(body: bytes, window: int, in_runs: bool) -> None:
    """Cut into pieces, each of them perhaps into runs, or parsed at once; the order of fields, too."""

    def meaning() -> Any:
        try:
            return orjson.dumps(json.parse(body, dict))
        except Invalid:
            return None

    whole = meaning()
    with (
        mock.patch.object(json, "_AT_ONCE_BYTES", 0),
        mock.patch.object(json, "_RUN_MARKS", 0 if in_runs else json.MAX_PIECE_MARKS),
        mock.patch.object(pieces, "_WINDOW_BYTES", window),
        mock.patch.object(runs, "WINDOW_BYTES", window),
    ):
        assert meaning() == whole


@pytest.mark.parametrize("before", range(20))
def test_an_integer_beyond_64_bits_is_seen_wherever_it_stands(before: int) -> None:
    """19 digits are its fewest."""
    body = b'{"a":"%s","b":9223372036854775808}' % (b"x" * before)
    with pytest.raises(Invalid) as refused:
        json.parse(body, dict)
    assert refused.value.code == "number_out_of_range"


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("levels", [63, 64])
def test_levels_are_counted_through_the_pieces(levels: int, in_runs: bool) -> None:
    body = b'{"a":[' + b'{"a":' * (levels - 2) + b"1" + b"}" * (levels - 2) + b"]}"
    with (
        mock.patch.object(json, "_AT_ONCE_BYTES", 0),
        mock.patch.object(json, "_RUN_MARKS", 0 if in_runs else json.MAX_PIECE_MARKS),
        mock.patch.object(runs, "WINDOW_BYTES", 2),
    ):
        assert json.parse(body, dict)
        with pytest.raises(Invalid) as refused:
            json.parse(body.replace(b"1", b'{"a":{"a":1}}'), dict)
        assert refused.value.code == "too_deep"


BROKEN = [
    (b"[1,]", "invalid_json"),
    (b"[,1]", "invalid_json"),
    (b"[1,,2]", "invalid_json"),
    (b"[1,2,[[1]],]", "invalid_json"),
    (b"[1,2,[[1,2]] [1]]", "invalid_json"),
    (b"[1,2,[[1,2]] 3,4]", "invalid_json"),
    (b"[1,2 [3,4]]", "invalid_json"),
    (b'{"a":1,"b" [[1,2]]}', "invalid_json"),
    (b'{"a":1,5:[[1,2]]}', "invalid_json"),
    (b'{"a":1,"b":[[1,2]],}', "invalid_json"),
    (b'{"a":1,[1,2]}', "invalid_json"),
    (b"[1,2,[3,4}]", "invalid_json"),
    (b"[1,2,[3,4]", "invalid_json"),
    (b'[1,2,"a', "invalid_json"),
    (b"[1,2,[" + b"[" * 70, "too_deep"),
]


@pytest.mark.parametrize(("text", "code"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("around", [b"%s", b'{"a":%s}', b"[[%s]]"])
def test_what_is_broken_is_refused_in_runs_too(text: bytes, code: str, around: bytes) -> None:
    with (
        mock.patch.object(json, "_AT_ONCE_BYTES", 0),
        mock.patch.object(json, "_RUN_MARKS", 0),
        mock.patch.object(runs, "WINDOW_BYTES", 2),
        pytest.raises(Invalid) as refused,
    ):
        json.parse(b'{"a":[%s]}' % (around % text), dict)
    assert refused.value.code == code


def test_a_request_with_very_many_parts_is_taken_as_it_is() -> None:
    """Large enough to be parsed in runs, whatever it is nested in."""
    inner = {f"{n:x}": [{"a": n}, [], "},{"] for n in range(60_000)}
    request = {"a": [[{"b": inner, "c": "x" * 100_000}]]}
    given = {"requests": [request], "n": 1}
    assert orjson.dumps(json.parse(orjson.dumps(given), dict)) == orjson.dumps(given)


@given(st.binary(max_size=200))
def test_the_gate_never_raises_anything_but_a_refusal(body: bytes) -> None:
    with suppress(Invalid):
        json.parse(body, dict)


def test_the_gate_is_fast_enough_for_a_thousand_requests() -> None:
    requests = [{"custom_id": f"req-{n:06}", "message": "What are your hours? " * 9} for n in range(1000)]
    body = orjson.dumps({"agent_id": "550e8400-e29b-41d4-a716-446655440000", "requests": requests})
    best = 1.0
    for _ in range(20):
        began = time.process_time()
        json.parse(body, dict)
        best = min(best, time.process_time() - began)
    assert best < 0.006  # 1.3 ms on a quiet machine


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        (None, "unsupported_media_type"),
        ("text/plain", "unsupported_media_type"),
        ("application/x-www-form-urlencoded", "unsupported_media_type"),
        ("application/jsonp", "unsupported_media_type"),
        ("application/json; charset=latin-1", "unsupported_charset"),
        ("application/json; profile=x; charset=latin-1", "unsupported_charset"),
    ],
)
async def test_json_says_that_it_is_json(caller: Caller, content_type: str | None, code: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await caller.send("POST", BATCHES, content=b"{}", headers=headers)
    assert code_of(answer, 415) == code


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=UTF-8",
        "Application/JSON",
        'application/json;charset="utf-8"',
        "application/json; charset=utf-8; version=1",
        'application/json; profile="a;b"',
    ],
)
async def test_the_usual_forms_of_the_media_type_are_taken(caller: Caller, content_type: str) -> None:
    answer = await caller.send(
        "POST", BATCHES, content=body_with(b'""'), headers={"content-type": content_type}
    )
    assert answer.status_code == 202


async def test_a_compressed_body_is_415(caller: Caller) -> None:
    answer = await caller.send("POST", BATCHES, content=b"{}", headers=JSON | {"content-encoding": "gzip"})
    assert code_of(answer, 415) == "unsupported_encoding"


@pytest.mark.parametrize("text", [b'"12"', b"12", b"true", b"null", b"[]", b"{}"])
async def test_nothing_is_coerced(caller: Caller, text: bytes) -> None:
    answer = await caller.send("POST", BATCHES, content=body_with(text), headers=JSON)
    assert answer.status_code == (202 if text == b'"12"' else 400)
