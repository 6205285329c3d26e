"""What the environment may say, and how a mistake in it is told."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gristmill.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
        monkeypatch.delenv(f"{PREFIX}{name.upper()}_FILE", raising=False)


def test_nothing_has_to_be_set() -> None:
    settings = Settings()
    assert settings.database_url is None
    assert settings.host == "127.0.0.1"
    assert not settings.allow_private_addresses


@pytest.mark.parametrize(
    "name",
    [
        "database_url",
        "api_key",
        "secret_key",
        "llm_base_url",
        "llm_api_key",
        "public_url",
        "s3_access_key_id",
        "s3_secret_access_key",
    ],
)
def test_a_file_may_hold_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "value").write_text("https://value\n")
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(tmp_path / "value"))
    value = getattr(Settings(), name)
    assert getattr(value, "get_secret_value", lambda: value)() == "https://value"


def test_the_variable_itself_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "value").write_text("from the file")
    monkeypatch.setenv("GRISTMILL_PUBLIC_URL_FILE", str(tmp_path / "value"))
    monkeypatch.setenv("GRISTMILL_PUBLIC_URL", "https://here/")
    assert Settings().public_url == "https://here"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", "")
    monkeypatch.setenv("GRISTMILL_PORT", "")
    assert Settings().database_url is None
    assert Settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("CONCURRENCY", "0"),
        ("LEASE_SECONDS", "0"),
        ("ITEM_TIMEOUT_SECONDS", "3601"),
        ("DATABASE_POOL_SIZE", "1"),
        ("LOG_FORMAT", "yaml"),
        ("ALLOW_PRIVATE_ADDRESSES", "perhaps"),
        ("LLM_PRICE_PROMPT", "-1"),
        ("FILE_RETENTION_DAYS", "0"),
        ("LEASE_SECONDS", "nan"),
        ("DRAIN_SECONDS", "inf"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert [error["loc"] for error in refused.value.errors()] == [(name.lower(),)]


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "API_KEY", "SECRET_KEY", "LLM_API_KEY"):
        monkeypatch.setenv(f"{PREFIX}{name}", "postgresql://hush:hush@hush/hush")
    assert "hush" not in repr(Settings())
    assert "hush" not in str(Settings())
