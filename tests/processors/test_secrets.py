"""Secrets of any configuration, a stranger's included: out of what may be shown, and back for the processor."""

from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field, SecretStr

from gristmill.processors.secrets import put_back, taken_out
from gristmill.processors.validation import _check

KEYS = ("first-secret", 'second "secret"\\', "drittes Geheimnis: ß\u2028")


class Account(BaseModel):
    user: str
    password: SecretStr | None = None


class StrangersConfig(BaseModel):
    accounts: list[Account] = []
    by_name: dict[str, SecretStr] = Field({}, alias="byName")
    either: SecretStr | int | Account = 0
    pair: tuple[str, SecretStr] | None = None
    anything: Any = None


GIVEN = [
    {},
    {"accounts": [{"user": "a"}, {"user": "b", "password": KEYS[0]}]},
    {"byName": {"a/b~c": KEYS[0], "": KEYS[1], "0": KEYS[2]}},
    {"either": KEYS[1], "pair": ["x", KEYS[2]]},
    {"either": {"user": "u", "password": KEYS[0]}, "anything": {"n": [1.5, None, "**********"]}},
    {"either": 7, "accounts": [{"user": "a", "password": None}]},
    {"accounts": [{"user": "a", "password": ""}]},
]


@pytest.mark.parametrize("given", GIVEN)
def test_what_is_taken_out_and_put_back_is_what_was_given(given: dict[str, Any]) -> None:
    [model] = _check(StrangersConfig, [orjson.dumps(given).decode()], False)
    shown, secrets = taken_out(model)
    whole = shown if secrets is None else put_back(shown, secrets)
    assert StrangersConfig.model_validate_json(whole) == model
    for key in KEYS:
        assert key not in orjson.loads(shown).__repr__()
        assert (key in str(given)) <= (secrets is not None)


def test_a_configuration_without_secrets_is_whole_as_it_is() -> None:
    [model] = _check(StrangersConfig, ['{"anything": {"password": "none of our business"}}'], False)
    assert taken_out(model) == ('{"anything":{"password":"none of our business"}}', None)
