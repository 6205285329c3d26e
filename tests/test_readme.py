"""What the README says of settings, commands and signatures is so."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from gristmill.net import signing
from gristmill.settings import _FILES, PREFIX, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _name(field: str) -> str:
    name = f"`{PREFIX}{field.upper()}`"
    return f"{name}, `…_FILE`" if field in _FILES else name


def _default(field: str, info: FieldInfo) -> str:
    if field == "data_dir":
        return "`/var/lib/gristmill` as root, else `~/.local/share/gristmill`"
    value = info.default
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(info: FieldInfo) -> str:
    words = info.annotation
    if get_origin(words) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(words))
    metadata = info.metadata + [one for kind in get_args(words) for one in getattr(kind, "__metadata__", ())]
    bounds: dict[Any, Any] = {}
    for one in metadata:
        for limit in [one, *getattr(one, "metadata", ())]:
            bounds[type(limit)] = limit
    if Gt in bounds:
        return f"above {bounds[Gt].gt}"
    if Ge not in bounds:
        return "true, false" if words is bool else ""
    return f"{bounds[Ge].ge} – {bounds[Le].le}" if Le in bounds else f"{bounds[Ge].ge} or more"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = [line.split(" | ") for line in _section("Settings").splitlines() if line.startswith("| `")]
    told = [(row[0].removeprefix("| "), row[1].strip(), row[2].strip()) for row in rows]
    assert told == [
        (_name(field), _default(field, info), _range(info)) for field, info in Settings.model_fields.items()
    ]
    assert all(row[3].removesuffix(" |").strip() for row in rows), "a setting without a meaning"


def test_every_setting_named_anywhere_exists() -> None:
    pages = [README, *(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/**/*.md"))]
    pages += [(ROOT / name).read_text(encoding="utf-8") for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")]
    named = {name for page in pages for name in re.findall(rf"\b{PREFIX}([A-Z][A-Z_]*[A-Z])\b", page)}
    known = {field.upper() for field in Settings.model_fields} | {"TEST_DATABASE_URL"}  # the tests' own
    assert named <= known


def test_what_has_to_pass_is_what_ci_runs() -> None:
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    told = _section("More").split("```")[1].strip().splitlines()
    assert told == ci


def test_the_two_commands_are_in_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        commands = re.findall(r"(?:^|`)make ([a-z]+)\b", page, re.MULTILINE)
        assert set(commands) <= set(targets)
    assert _section("Two commands").split("```")[1].split() == ["make", "demo", "make", "test"]


@pytest.mark.parametrize("secret", ["your-webhook-secret", "whsec_bWlsbA==", "mühle"])
def test_the_verification_snippet_takes_what_is_signed_and_nothing_else(secret: str) -> None:
    snippet = README.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(snippet, names)
    verify = names["verify_webhook"]
    body = b'{"id":"evt_1"}'
    headers = signing.headers(secret, "evt_1", 1795348098, body)
    signature, timestamp = headers["X-Codeer-Signature"], headers["X-Codeer-Timestamp"]
    assert verify(body, signature, timestamp, secret)
    assert not verify(body + b" ", signature, timestamp, secret)
    assert not verify(body, signature, "1795348099", secret)
    assert not verify(body, signature, timestamp, secret + "x")


def test_the_delivery_shown_verifies_with_the_secret_shown() -> None:
    shown = next(block for block in README.split("```") if "X-Codeer-Signature: " in block).strip()
    head, body = shown.split("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines())
    payload = body.replace("\n", "").encode()
    secret = re.findall(r'"secret": "([^"]+)"', README)[0]
    expected = signing.headers(secret, headers["webhook-id"], int(headers["webhook-timestamp"]), payload)
    assert headers == expected


def test_secrets_may_come_from_files_and_the_table_says_which() -> None:
    secret = {field for field, info in Settings.model_fields.items() if SecretStr in _kinds(info)}
    assert secret <= _FILES


def _kinds(info: FieldInfo) -> set[Any]:
    return {info.annotation, *get_args(info.annotation)}
