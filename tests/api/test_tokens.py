"""JWT: one issuer, one algorithm; claims say the tenant and the scopes; what a token says of its own key is not believed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import httpx2
import jwt
import pytest
from pydantic import SecretStr, ValidationError

import factories
from fakes import issuer
from fakes.issuer import claims, private_key, public_pem, publishing, segment, token
from gristmill.api import issuer_keys
from gristmill.api.app import create_app
from gristmill.db import Database
from gristmill.net.session import HttpSession
from gristmill.settings import Algorithm, Settings
from gristmill.storage.opening import open_storage
from gristmill.store import keys
from service import VAULT, Service, code_of

BATCHES = "/api/v1/batches"
Serve = Callable[..., Any]


@pytest.fixture
async def serve(database: Database, tmp_path: Path, http: HttpSession) -> Serve:
    """The application with these settings, on a database with the tenants acme and other."""
    async with database.engine.begin() as connection:
        for name in ("acme", "other"):
            await keys.ensure_tenant(connection, name)

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Service]:
        given = Settings(data_dir=tmp_path, host="127.0.0.1", port=8000, **settings)
        app = create_app(database, VAULT, given, wake=lambda *_: None, http=http, storage=open_storage(given))
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://token.test") as client:
            yield Service(app, database, client, asyncio.Event())

    return serving


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    async with serve(**issuer.settings()) as service:
        yield service


async def send(
    service: Service, bearer: str, path: str = BATCHES, method: str = "GET", **more: Any
) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {bearer}"}
    return await service.client.request(method, path, headers=headers, **more)


async def status(service: Service, bearer: str) -> int:
    return (await send(service, bearer)).status_code


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
async def test_a_token_of_the_configured_algorithm_opens(serve: Serve, algorithm: str) -> None:
    async with serve(**issuer.settings(algorithm)) as service:
        assert await status(service, token(algorithm)) == 200
        assert code_of(await send(service, token(algorithm, 2)), 401) == "invalid_token"


async def test_a_token_says_the_tenant_the_scopes_and_who(service: Service, database: Database) -> None:
    body = {"processor": "noop", "requests": [{"custom_id": "a", "input": {"text": "x"}}]}
    made = await send(service, token(), method="POST", json=body)
    assert made.status_code == 202
    assert made.json()["data"]["created_by"] == "user-1"
    [tenant] = await factories.sql(database, "SELECT t.name FROM batch b JOIN tenant t ON t.id = b.tenant_id")
    assert tenant == "acme"
    assert (await send(service, token(tenant="other"))).json()["data"] == []
    assert len((await send(service, token())).json()["data"]) == 1
    assert code_of(await send(service, token(), "/api/v1/agents"), 403) == "missing_scope"


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("openid batches:read", True),
        (["batches:read", 7], True),
        ("admin", True),
        ("", False),
        (None, False),
        (["batches:read agents:read"], False),
        ({"batches:read": True}, False),
        ("BATCHES:READ batches", False),
        ("operate", False),
    ],
)
async def test_only_scopes_that_are_ours_count(service: Service, scope: Any, allowed: bool) -> None:
    assert await status(service, token(scope=scope)) == (200 if allowed else 403)


async def test_the_claims_are_named_by_the_settings(serve: Serve) -> None:
    named = issuer.settings(jwt_tenant_claim="org", jwt_scopes_claim="https://example.com/may")
    async with serve(**named) as service:
        good = {"org": "acme", "https://example.com/may": ["batches:read"]}
        assert await status(service, token(tenant=None, scope=None, **good)) == 200
        assert await status(service, token()) == 401


async def test_an_unknown_tenant_is_403(service: Service) -> None:
    assert code_of(await send(service, token(tenant="nobody")), 403) == "unknown_tenant"


@pytest.mark.parametrize("name", ["exp", "iat", "aud", "iss", "sub", "tenant"])
async def test_a_token_without_a_claim_that_it_needs_is_refused(service: Service, name: str) -> None:
    assert code_of(await send(service, token(**{name: None})), 401) == "invalid_token"


def by_hand(made: dict[str, Any]) -> str:
    """A token that is signed as it should be, whatever it says."""
    text = f"{segment({'alg': 'RS256', 'typ': 'JWT'})}.{segment(made)}"
    signature = jwt.get_algorithm_by_name("RS256").sign(text.encode(), private_key("RS256"))
    return f"{text}.{segment(signature)}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://issuer.example.com"},
        {"iss": ["https://issuer.example.com/"]},
        {"aud": "another"},
        {"aud": []},
        {"aud": ["another", "one"]},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": [1]},
        {"iat": 10**400},
        {"sub": 7},
        {"sub": ""},
        {"sub": "a\0b"},
        {"sub": "x" * 257},
        {"sub": "\ud800"},
        {"tenant": ["acme"]},
        {"tenant": "ac\0me"},
        {"tenant": "\udfff"},
    ],
    ids=str,
)
async def test_a_token_with_a_wrong_claim_is_refused(service: Service, wrong: dict[str, Any]) -> None:
    assert await status(service, by_hand(claims())) == 200
    assert code_of(await send(service, by_hand(claims(**wrong))), 401) == "invalid_token"


async def test_one_of_several_audiences_is_enough(service: Service) -> None:
    assert await status(service, token(aud=["another", issuer.AUDIENCE])) == 200


async def test_an_expired_token_is_told_so_and_the_leeway_counts(serve: Serve) -> None:
    now = int(time.time())
    async with serve(**issuer.settings(jwt_leeway_seconds=120)) as service:
        assert await status(service, token(exp=now - 60)) == 200
        assert code_of(await send(service, token(exp=now - 121)), 401) == "token_expired"
        assert await status(service, token(iat=now + 60)) == 200


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "RS384", "HS256", "ES256"])
@pytest.mark.parametrize("signature", ["", "AAAA"])
async def test_no_token_chooses_its_algorithm(service: Service, name: str, signature: str) -> None:
    text = f"{segment({'alg': name, 'typ': 'JWT'})}.{segment(claims())}.{signature}"
    assert code_of(await send(service, text), 401) == "invalid_token"


async def test_the_public_key_is_no_shared_secret(service: Service) -> None:
    """Key confusion: signed by HMAC under the text of the public key, which everybody knows."""
    for algorithm in ("HS256", "HS384", "HS512"):
        text = f"{segment({'alg': algorithm, 'typ': 'JWT'})}.{segment(claims())}"
        for secret in (public_pem("RS256"), public_pem("RS256").strip()):
            signature = jwt.get_algorithm_by_name(algorithm).sign(text.encode(), secret.encode())
            assert await status(service, f"{text}.{segment(signature)}") == 401


async def test_an_algorithm_of_the_same_key_is_another_algorithm(service: Service) -> None:
    for algorithm in ("RS512", "PS256"):
        assert await status(service, jwt.encode(claims(), private_key("RS256"), algorithm)) == 401


@pytest.mark.parametrize("configured", ["by key", "by URL"])
async def test_keys_that_a_token_brings_are_not_looked_at(serve: Serve, configured: str) -> None:
    async with publishing(issuer.jwk("RS256")) as good, publishing(issuer.jwk("RS256", 2)) as evil:
        where = {"jwt_jwks_url": good.url, "allow_private_addresses": True} if configured == "by URL" else {}
        async with serve(**issuer.settings(**where)) as service:
            for headers in (
                {"jku": evil.url},
                {"x5u": evil.url},
                {"jwk": issuer.jwk("RS256", 2)},
                {"jwk": issuer.jwk("RS256", 2), "jku": evil.url, "x5u": evil.url, "x5c": ["MIIB"]},
            ):
                for kid in ("key-1", "key-2"):
                    forged = token("RS256", 2, {**headers, "kid": kid})
                    assert code_of(await send(service, forged), 401) == "invalid_token"
                assert await status(service, token(headers={**headers, "kid": "key-1"})) == 200
        assert evil.requests == 0


@pytest.mark.parametrize(
    "bearer",
    [
        "ey..",
        "eyJhbGciOiJSUzI1NiJ9..",
        "eyJhbGciOiJSUzI1NiJ9.e30.",
        "ey%%%.a.b",
        f"{segment([])}.{segment({})}.AAAA",
        f"ey{segment(b'[' * 3000)}.e30.AAAA",
        f"{segment({'alg': ['RS256']})}.e30.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 7})}.e30.AAAA",
        f"{segment({'alg': 'RS256', 'crit': ['b64'], 'b64': False})}..AAAA",
        f"{segment({'alg': 'RS256', 'crit': ['mine'], 'mine': 1})}.e30.AAAA",
        "eyJ" + "a" * 9000 + ".b.c",
        segment(b'{"a":' * 1200) + ".e30.AAAA",
    ],
)
async def test_what_is_no_token_is_a_401(service: Service, bearer: str) -> None:
    code_of(await send(service, bearer), 401)


async def test_a_changed_token_is_refused(service: Service) -> None:
    head, _, signature = token().split(".")
    assert await status(service, f"{head}.{segment(claims(tenant='other'))}.{signature}") == 401


async def test_a_token_is_taken_as_a_bearers_only(service: Service) -> None:
    for name in ("x-api-key", "X-Auth-Token"):
        answer = await service.client.get(BATCHES, headers={name: token()})
        assert code_of(answer, 401) == "invalid_key"
    answer = await service.client.get(f"{BATCHES}?token={token()}")
    code_of(answer, 401)


async def test_a_token_is_nothing_where_none_is_configured(serve: Serve) -> None:
    async with serve() as service:
        code_of(await send(service, token()), 401)


async def test_api_keys_open_beside_tokens(service: Service, database: Database) -> None:
    async with database.engine.begin() as connection:
        tenant_id = await keys.ensure_tenant(connection, "acme")
        _, plain = await keys.create(connection, VAULT, tenant_id, name="x", scopes=["admin"])
    assert await status(service, plain) == 200
    both = {"Authorization": f"Bearer {token()}", "x-api-key": plain}
    assert code_of(await service.client.get(BATCHES, headers=both), 401) == "ambiguous_credentials"


async def test_the_holder_of_a_token_gives_keys_no_more_than_it_has_and_is_logged(service: Service) -> None:
    bearer = token(scope="keys:write audit:read batches:read")
    for scopes, expected in ((["batches:read"], 201), (["agents:read"], 403)):
        body = {"name": "x", "scopes": scopes}
        made = await send(service, bearer, "/api/v1/api-keys", "POST", json=body)
        assert made.status_code == expected
    [act] = (await send(service, bearer, "/api/v1/audit-log")).json()["data"]
    assert act["actor"] == {"kind": "jwt", "id": "user-1", "name": "user-1"}


async def test_no_token_and_no_part_of_it_is_logged_or_answered(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for bearer in (token(), token("RS256", 2), token(exp=1), token(tenant="nobody"), token() + "x"):
        answer = await send(service, bearer)
        for part in bearer.split("."):
            assert part not in answer.text
            assert part not in caplog.text


# --- the issuer's keys at a URL ---------------------------------------------------------------------------------------


def _clock(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    real = time.monotonic
    monkeypatch.setattr(issuer_keys.time, "monotonic", lambda: real() + ahead)


def by_url(published: issuer.Published, algorithm: str = "RS256") -> dict[str, Any]:
    return issuer.settings(algorithm, jwt_jwks_url=published.url, allow_private_addresses=True)


async def test_keys_are_fetched_once_and_again_for_a_new_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(issuer.jwk("RS256")) as published, serve(**by_url(published)) as service:
        first = token(headers={"kid": "key-1"})
        answers = await asyncio.gather(*(send(service, first) for _ in range(5)))
        assert ({one.status_code for one in answers}, published.requests) == ({200}, 1)
        published.keys.append(issuer.jwk("RS256", 2))
        second = token("RS256", 2, {"kid": "key-2"})
        assert await status(service, second) == 401  # just fetched: not again so soon
        _clock(monkeypatch, issuer_keys.FETCH_SECONDS + 1)
        assert (await status(service, second), published.requests) == (200, 2)


async def test_unknown_key_ids_do_not_make_a_fetch_each(serve: Serve) -> None:
    async with publishing(issuer.jwk("RS256")) as published, serve(**by_url(published)) as service:
        for number in range(20):
            assert await status(service, token(headers={"kid": f"made-up-{number}"})) == 401
        assert published.requests == 1


async def test_a_key_that_the_issuer_has_withdrawn_opens_no_more(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(issuer.jwk("RS256")) as published, serve(**by_url(published)) as service:
        first = token(headers={"kid": "key-1"})
        assert await status(service, first) == 200
        published.keys[:] = [issuer.jwk("RS256", 2)]
        _clock(monkeypatch, issuer_keys.LIFE_SECONDS + 1)
        assert await status(service, first) == 200  # fetched beside this request
        await service.app.state.parts.tokens._key._beside
        assert (await status(service, first), published.requests) == (401, 2)


async def test_keys_outlive_an_outage_of_the_issuer_for_an_hour(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(issuer.jwk("RS256")) as published, serve(**by_url(published)) as service:
        first = token(headers={"kid": "key-1"})
        assert await status(service, first) == 200
        published.status = 500
        _clock(monkeypatch, issuer_keys.MAX_AGE_SECONDS - 60)
        assert await status(service, first) == 200
        await service.app.state.parts.tokens._key._beside
        _clock(monkeypatch, issuer_keys.MAX_AGE_SECONDS + 60)
        answer = await send(service, first)
        assert (code_of(answer, 503), answer.headers["retry-after"]) == ("unavailable", "5")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404},
        {"status": 302},
        {"body": b"<html>"},
        {"body": []},
        {"body": {"keys": {}}},
        {"body": b"[" * 100_000},
        {"body": b" " * 300_000},
        {"hangs": True},
    ],
    ids=str,
)
async def test_an_issuer_without_keys_is_a_503_and_no_500(
    serve: Serve, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "_TIMEOUT_SECONDS", 0.3)
    async with publishing(issuer.jwk("RS256")) as published, serve(**by_url(published)) as service:
        for name, value in fault.items():
            setattr(published, name, value)
        code_of(await send(service, token(headers={"kid": "key-1"})), 503)
        assert published.requests == 1


async def test_only_keys_for_signatures_of_the_algorithm_count(serve: Serve) -> None:
    odd = [
        issuer.jwk("RS256", 1, use="enc"),
        issuer.jwk("RS256", 1, alg="RS512", kid="other-algorithm"),
        issuer.jwk("ES256", 1, kid="other-kind"),
        {"kty": "oct", "k": segment(b"x" * 64), "kid": "shared"},
        {"kty": "RSA", "kid": "broken", "n": 7},
        {"kty": "RSA", "kid": ["list"]},
        jwt.get_algorithm_by_name("RS256").to_jwk(private_key("RS256"), as_dict=True) | {"kid": "private"},
        "no object",
    ]
    async with publishing(*odd, issuer.jwk("RS256", 2)) as published, serve(**by_url(published)) as service:
        for kid in ("key-1", "other-algorithm", "other-kind", "shared", "broken", "private"):
            assert await status(service, token(headers={"kid": kid})) == 401
        assert await status(service, token("RS256", 2, {"kid": "key-2"})) == 200
        assert await status(service, token("RS256", 2)) == 200  # without an id: the only one


# --- the settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"jwt_issuer": None},
        {"jwt_audience": None},
        {"jwt_algorithm": None},
        {"jwt_key": None},
        {"jwt_jwks_url": "https://issuer.example.com/keys", "jwt_key": SecretStr(public_pem("RS256"))},
        {"jwt_jwks_url": "http://issuer.example.com/keys", "jwt_key": None},
        {"jwt_jwks_url": "https://i.example.com/keys", "jwt_key": None, "jwt_algorithm": "HS256"},
        {"jwt_key": SecretStr("no key")},
        {"jwt_key": SecretStr(public_pem("ES256"))},
        {"jwt_algorithm": "ES256"},
        {"jwt_algorithm": "HS256", "jwt_key": SecretStr("short")},
        {"jwt_algorithm": "HS256", "jwt_key": SecretStr(public_pem("RS256"))},
        {"jwt_algorithm": "none"},
    ],
    ids=lambda wrong: ",".join(wrong),
)
def test_half_or_wrong_settings_are_refused_at_the_start(wrong: dict[str, Any]) -> None:
    good = {"jwt_key": SecretStr(public_pem("RS256"))} | issuer.settings(jwt_jwks_url=None)
    Settings(**good)
    with pytest.raises(ValidationError):
        Settings(**{**good, **wrong})


def test_a_private_key_is_refused_in_place_of_the_public_one() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = private_key("RS256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValidationError):
        Settings(**(issuer.settings() | {"jwt_key": SecretStr(private.decode())}))


async def test_an_issuer_cannot_give_the_right_of_the_operator(service: Service) -> None:
    for scope in ("operate admin", ["admin", "operate"]):
        refused = await send(service, token(scope=scope), "/api/v1/limits")
        assert code_of(refused, 403) == "missing_scope"
