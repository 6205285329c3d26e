"""An issuer of tokens: signs what it is told, and publishes its keys at a URL, well or badly."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import SecretStr

from fakes import wire

ISSUER = "https://issuer.example.com/"
AUDIENCE = "gristmill"
SECRET = "a shared secret that is long enough for any of the hashes: 64 bytes."


def private_key(algorithm: str, number: int = 1) -> Any:
    """The same at each call; `number` tells keys of one kind apart."""
    return _private_key(algorithm, number)


@cache
def _private_key(algorithm: str, number: int) -> Any:
    """Making an RSA key takes a tenth of a second."""
    if algorithm.startswith("HS"):
        return f"{SECRET}{number}"
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ES"):
        curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm]
        return ec.generate_private_key(curve)
    return rsa.generate_private_key(65537, 2048)


def public_pem(algorithm: str, number: int = 1) -> str:
    """What the operator puts into the setting."""
    key = private_key(algorithm, number)
    if isinstance(key, str):
        return key
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def jwk(algorithm: str, number: int = 1, **more: Any) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(
        private_key(algorithm, number).public_key(), as_dict=True
    )
    return {**made, "kid": f"key-{number}", **more}


def claims(**more: Any) -> dict[str, Any]:
    """Of a good token; those that are None are left out."""
    now = int(time.time())
    told = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 300,
        "tenant": "acme", "scope": "batches:read batches:write", **more,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


def token(
    algorithm: str = "RS256", number: int = 1, headers: dict[str, Any] | None = None, **more: Any
) -> str:
    return jwt.encode(claims(**more), private_key(algorithm, number), algorithm, headers=headers)


def segment(value: Any) -> str:
    """One part of a token made by hand."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def settings(algorithm: str = "RS256", **more: Any) -> dict[str, Any]:
    key = {} if "jwt_jwks_url" in more else {"jwt_key": SecretStr(public_pem(algorithm))}
    return {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_algorithm": algorithm, **key, **more}


@dataclass
class Published:
    """The URL with the keys. `body` replaces the JWKS, `hangs` answers nothing; `requests` counts."""

    keys: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: object = None
    hangs: bool = False
    requests: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await wire.read(reader)
            self.requests += 1
            if self.hangs:
                await reader.read()
            else:
                await wire.send(
                    writer,
                    self.status,
                    {"keys": self.keys} if self.body is None else self.body,
                    {"Connection": "close"},
                )
        writer.transport.abort() if self.hangs else writer.close()


@asynccontextmanager
async def publishing(*keys: dict[str, Any]) -> AsyncIterator[Published]:
    published = Published(list(keys))
    server = await asyncio.start_server(published.serve, "127.0.0.1", 0)
    published.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    yield published
    server.close()
    await server.wait_closed()
