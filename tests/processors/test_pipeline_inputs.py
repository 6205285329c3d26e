"""What an item of a pipeline may be, checked before a row exists."""

from typing import Any

import pytest

from gristmill.processors import get, validate, validate_config

FILE = "01a20313-6bfd-7000-a782-5dcd26d6f615"
URL = "https://example.com/a.pdf"


@pytest.mark.parametrize(
    "given",
    [
        {"text": ""},
        {"text": "a", "filename": "a.txt", "language": "en", "metadata": {"a": ""}},
        {"file_id": FILE},
        {"source": URL, "source_type": "url"},
        {"source": "a/b.pdf", "source_type": "local"},
        {"source": "s3://bucket/a", "source_type": "s3"},
        {"source": "a", "source_type": "minio"},
    ],
)
def test_one_document_is_an_item(given: dict[str, Any]) -> None:
    [model], problems = validate(get("pipeline"), [given])
    assert problems == []
    assert model is not None


@pytest.mark.parametrize(
    ("given", "pointer", "code"),
    [
        ({}, "", "one_document"),
        ({"text": "a", "file_id": FILE}, "", "one_document"),
        ({"text": "a", "source": URL, "source_type": "url"}, "", "one_document"),
        ({"source": URL}, "", "source_type"),
        ({"text": "a", "source_type": "url"}, "", "source_type"),
        ({"source": URL, "source_type": "ftp"}, "/source_type", "literal_error"),
        ({"source": "http://example.com/", "source_type": "url"}, "", "address_refused"),
        ({"source": "https://169.254.169.254/", "source_type": "url"}, "", "address_refused"),
        ({"file_id": FILE.upper()[:-1]}, "/file_id", "uuid_parsing"),
        ({"text": "a", "metadata": {"a": 1}}, "/metadata/a", "string_type"),
        ({"text": "a", "more": 1}, "/more", "extra_forbidden"),
    ],
)
def test_anything_else_is_refused_with_its_place(given: dict[str, Any], pointer: str, code: str) -> None:
    _, problems = validate(get("pipeline"), [{"text": "good"}, given])
    assert [(one.pointer, one.code) for one in problems] == [(f"/requests/1{pointer}", code)]


def test_private_addresses_are_open_where_the_setting_opens_them() -> None:
    given = {"source": "http://127.0.0.1:8000/", "source_type": "url"}
    assert validate(get("pipeline"), [given], allow_private=True)[1] == []
    sink = {"sink": {"url": "http://127.0.0.1:8000/"}}
    assert validate_config(get("pipeline"), sink, allow_private=True)[1] == []


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({}, "/config/sink"),
        ({"sink": {}}, "/config/sink/url"),
        ({"sink": {"url": URL, "chunks_per_post": 0}}, "/config/sink/chunks_per_post"),
        ({"sink": {"url": URL}, "chunking_strategy": "random"}, "/config/chunking_strategy"),
        ({"sink": {"url": URL}, "max_characters": 100_001}, "/config/max_characters"),
        ({"sink": {"url": URL}, "new_after": 0}, "/config/new_after"),
    ],
)
def test_a_configuration_is_checked_too(config: dict[str, Any], pointer: str) -> None:
    assert [one.pointer for one in validate_config(get("pipeline"), config)[1]] == [pointer]


def test_the_defaults_are_those_of_the_seed() -> None:
    config, _ = validate_config(get("pipeline"), {"sink": {"url": URL}})
    assert config is not None
    shown = config.model_dump(exclude={"sink"})
    assert shown == {"chunking_strategy": "basic", "max_characters": 1536, "new_after": 1024}
