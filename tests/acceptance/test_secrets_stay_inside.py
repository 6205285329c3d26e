"""A thousand secrets through every route of a real server: none in a line of its log, none to read in a dump of its database."""

import asyncio
import base64
import os
import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from command import Command
from documented import Operation, operations_of
from fakes import issuer
from fakes.llm import FakeLLM
from gristmill.embedded.binaries import _installed
from mill import eventually

ADMIN = "gm_the-operators-own-key-in-the-settings"
LLM_KEY = "sk-the-operators-key-of-the-endpoint"
# Kept as it came: it is the work itself, or a name. All other kinds have to be encrypted, hashed, or gone.
STORED = frozenset({"prompt", "idempotency key", "query"})


class Secrets:
    """Each is used once. `made` has them by their kind."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.made: dict[str, list[str]] = defaultdict(list)

    def new(self, kind: str) -> str:
        one = f"zq{self._random.getrandbits(160):040x}"
        self.made[kind].append(one)
        return one

    def token(self, **more: Any) -> str:
        """A good token of the issuer, as long as its claims are."""
        one = issuer.token("HS256", tenant="default", jti=self.new("claim"), **more)
        self.made["token"].append(one.rpartition(".")[2])
        return one

    def shown(self, text: str, kinds: set[str]) -> dict[str, int]:
        """How many of each kind are in the text, in one of the forms that a text takes."""
        found = {
            kind: sum(any(form in text for form in forms(one)) for one in self.made[kind]) for kind in kinds
        }
        return {kind: count for kind, count in found.items() if count}


def forms(one: str) -> Iterator[str]:
    raw = one.encode()
    yield one
    yield raw.hex()
    yield base64.b64encode(raw).decode()[:40]


def requests(operation: Operation, secrets: Secrets) -> Iterator[dict[str, Any]]:
    """Without good credentials, in each of their forms; with them, and secrets in every place."""
    ids = {name: secrets.new("query") for name in operation.path_parameters}
    path = operation.path.format(**ids)
    yield {"path": path, "headers": {"x-api-key": secrets.new("wrong key")}}
    yield {"path": path, "headers": {"x-auth-token": f"gm_{secrets.new('wrong key')}"}}
    yield {"path": path, "headers": {"Authorization": f"Bearer {secrets.token(exp=1)}"}}
    good = {"Authorization": f"Bearer {secrets.token(scope='admin')}"}
    yield {"path": f"{path}?{secrets.new('query')}={secrets.new('query')}", "headers": good}
    if operation.method != "GET":
        for body in bodies(operation.name, secrets):
            headers = {"x-api-key": ADMIN, "Idempotency-Key": secrets.new("idempotency key")}
            yield {"path": path, "headers": headers, "json": body}
        broken = b'{"a":"%s' % secrets.new("prompt").encode()
        yield {"path": path, "headers": good | {"Content-Type": "application/json"}, "content": broken}


def bodies(name: str, secrets: Secrets) -> Iterator[dict[str, Any]]:
    def batch(url: str) -> dict[str, Any]:
        return {
            "requests": [{"custom_id": "a", "input": {"messages": [{"role": "user", "content": secrets.new("prompt")}]}}],
            "webhook": {"url": url, "events": ["completed"], "secret": secrets.new("webhook secret")},
        }  # fmt: skip

    local = f"http://{secrets.new('url password')}:{secrets.new('url password')}@127.0.0.1:9/"
    own = {"upstream": {"api_key": secrets.new("upstream key"), "model": "m"}}
    hidden = {
        "headers": {"Authorization": f"Bearer {secrets.new('header')}"},
        "secret": secrets.new("header"),
    }
    server = {"name": "a", "url": "http://127.0.0.1:9/", "headers": {"A": secrets.new("header")}}
    if name in ("create_batch", "validate_batch"):
        yield {"processor": "completion", **batch("http://127.0.0.1:9/"), **own}
        yield {"processor": "completion", **batch(local), **own}
        yield {
            "processor": "http",
            **batch("http://127.0.0.1:9/"),
            "config": {"url": "http://127.0.0.1:9/", **hidden},
        }
    elif name == "create_configuration":
        yield {"name": "a", "processor": "http", "config": {"url": "http://127.0.0.1:9/", **hidden}}
        yield {"name": "a", "processor": "http", "config": {"url": local, **hidden}}
    elif "agent" in name:
        yield {"name": "a", "instructions": secrets.new("prompt"), "mcp_servers": [server]}
    else:
        yield {"url": local, "name": "a", "key": secrets.new("wrong key"), **own}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_secret_is_logged_or_kept_in_clear(
    own_database_url: str, tmp_path: Path, log_format: str
) -> None:
    secrets = Secrets(seed=1)
    async with FakeLLM(api_key=LLM_KEY) as llm:
        settings = {
            "database_url": own_database_url, "data_dir": tmp_path / "data", "secret_key": "a key for tests, 32 bytes long",
            "api_key": ADMIN, "log_format": log_format, "log_level": "debug", "allow_private_addresses": "true",
            "llm_base_url": llm.url, "llm_api_key": LLM_KEY, "llm_model": "fake-model", "poll_seconds": "0.1",
            "jwt_issuer": issuer.ISSUER, "jwt_audience": issuer.AUDIENCE, "jwt_algorithm": "HS256",
            "jwt_key": issuer.public_pem("HS256"),
        }  # fmt: skip
        command = Command(
            {f"GRISTMILL_{name.upper()}": str(one) for name, one in settings.items()}, log=tmp_path / "log"
        )
        serving = command.serve()
        running = await asyncio.to_thread(serving.__enter__)
        try:
            async with httpx2.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
                statuses = await sent_everywhere(client, secrets)
                await worked_off(client)
        finally:
            await asyncio.to_thread(running.stop)
            await asyncio.to_thread(serving.__exit__, None, None, None)
    assert {200, 201, 202, 400, 401, 404} <= statuses
    assert 500 not in statuses
    count = sum(map(len, secrets.made.values()))
    assert count >= 500  # twice: in each format
    log = (tmp_path / "log").read_text("utf-8")
    assert log.count("/api/v1/") > 200
    assert secrets.shown(log, set(secrets.made)) == {}
    dump = await asyncio.to_thread(dumped, own_database_url)
    assert secrets.shown(dump, {"prompt"})["prompt"] > 0  # it is a dump of what was sent
    assert secrets.shown(dump, set(secrets.made) - STORED) == {}
    assert ADMIN not in dump
    assert LLM_KEY not in dump + log
    print(
        f"\n{count} secrets of {len(secrets.made)} kinds, {log.count(chr(10))} lines of log, {len(dump)} characters of dump"
    )


async def sent_everywhere(client: httpx2.AsyncClient, secrets: Secrets) -> set[int]:
    statuses = set()
    for operation in operations_of((await client.get("/openapi.json")).json()):
        for sent in requests(operation, secrets):
            answer = await client.request(operation.method, sent.pop("path"), **sent)
            statuses.add(answer.status_code)
            if answer.status_code == 201 and "key" in (made := answer.json()["data"]):
                secrets.made["key"].append(made["key"])
    made = await client.post(
        "/api/v1/api-keys", headers={"x-api-key": ADMIN}, json={"name": "a", "scopes": ["batches:read"]}
    )
    secrets.made["key"].append(made.json()["data"]["key"])
    return statuses | {made.status_code}


async def worked_off(client: httpx2.AsyncClient) -> None:
    """Every batch has ended, and its webhook was tried: what they say of it is in the log."""

    async def ended() -> bool:
        said = await client.get("/api/v1/batches?limit=1000", headers={"x-api-key": ADMIN})
        return all(one["status"] in {"completed", "failed"} for one in said.json()["data"])

    async def tried() -> bool:
        [one, *_] = (await client.get("/api/v1/batches", headers={"x-api-key": ADMIN})).json()["data"]
        told = await client.get(f"/api/v1/batches/{one['id']}/deliveries", headers={"x-api-key": ADMIN})
        return any(delivery["attempts"] for delivery in told.json()["data"])

    await eventually(ended, 120)
    await eventually(tried, 120)


def dumped(url: str) -> str:
    program = str(_installed() / "pg_dump")
    parts = urlsplit(url)
    plain = parts._replace(scheme="postgresql").geturl()
    ran = subprocess.run(
        [program, "--data-only", "--dbname", plain],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_forms_of_a_secret_are_found() -> None:
    secrets = Secrets(1)
    one, other = secrets.new("a"), secrets.new("b")
    hidden = re.sub("..", lambda byte: byte.group(), other.encode().hex())
    assert secrets.shown(f"x {quote(one)} \\\\x{hidden}", {"a", "b"}) == {"a": 1, "b": 1}
    assert secrets.shown("nothing", {"a", "b"}) == {}
