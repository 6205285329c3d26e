"""Tokens (JWT, RFC 7519) of the one issuer that the operator configured. Nothing in a token chooses how it is verified:
not the algorithm, and not the key beyond its id among the issuer's own (`jku`, `jwk`, `x5u`, `x5c` are not looked at)."""

from datetime import UTC, datetime
from typing import Any, Self
from uuid import NAMESPACE_URL, UUID, uuid5

import jwt

from gristmill.api.issuer_keys import IssuerKeys
from gristmill.db import Database
from gristmill.domain.errors import Forbidden, Unauthenticated
from gristmill.settings import Settings
from gristmill.store import keys
from gristmill.store.keys import OPERATE, SCOPES, Key

MAX_BYTES = 8192
REQUIRED = ["exp", "iat", "aud", "iss", "sub"]
_MAX_WORD = 256
_MAX_TENANTS = 10_000
# What PyJWT raises, and what a hostile token could get out of the JSON and the numbers in it should PyJWT let that through.
_WRONG = (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError)


class Tokens:
    """`key` is the one that verifies, prepared for the algorithm, or the several that the issuer publishes."""

    def __init__(self, database: Database, settings: Settings, algorithm: str, key: Any) -> None:
        self._database = database
        self._settings = settings
        self._algorithm = algorithm
        self._key = key
        self._tenants: dict[str, UUID] = {}

    @classmethod
    def of(cls, database: Database, settings: Settings) -> Self | None:
        """None: tokens are not configured. The settings are checked (settings.py)."""
        if settings.jwt_algorithm is None:
            return None
        if settings.jwt_jwks_url is not None:
            key: Any = IssuerKeys(settings.jwt_jwks_url, settings.jwt_algorithm)
        else:
            assert settings.jwt_key is not None
            algorithm = jwt.get_algorithm_by_name(settings.jwt_algorithm)
            key = algorithm.prepare_key(settings.jwt_key.get_secret_value())
        return cls(database, settings, settings.jwt_algorithm, key)

    async def holder(self, token: str) -> Key:
        """Who has it, and what it may. Raises Unauthenticated, Forbidden for an unknown tenant, Unavailable."""
        try:
            claims = await self._claims(token)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired", code="token_expired") from None
        except _WRONG:
            raise Unauthenticated("the token is not valid", code="invalid_token") from None
        subject, tenant = _word(claims["sub"]), _word(claims.get(self._settings.jwt_tenant_claim))
        if subject is None or tenant is None:
            raise Unauthenticated("the token does not name its subject and tenant", code="invalid_token")
        return Key(
            id=uuid5(NAMESPACE_URL, f"{self._settings.jwt_issuer} {subject}"),
            tenant_id=await self._tenant(tenant),
            tenant=tenant,
            name=subject,
            prefix="",
            last_four="",
            scopes=_scopes(claims.get(self._settings.jwt_scopes_claim)),
            created_at=datetime.now(UTC),
            expires_at=None,
            revoked_at=None,
            kind="jwt",
        )

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") != self._algorithm:
            raise jwt.InvalidAlgorithmError
        key = self._key
        if isinstance(key, IssuerKeys):
            key = await key.find(header.get("kid"))
        if key is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            key,
            algorithms=[self._algorithm],
            audience=self._settings.jwt_audience,
            issuer=self._settings.jwt_issuer,
            leeway=self._settings.jwt_leeway_seconds,
            options={"require": REQUIRED, "enforce_minimum_key_length": True},
        )

    async def _tenant(self, name: str) -> UUID:
        """Tenants are never deleted, so a known one is asked for once. Raises Forbidden."""
        found = self._tenants.get(name)
        if found is None:
            async with self._database.engine.connect() as connection:
                found = await keys.tenant_named(connection, name)
            if found is None:
                raise Forbidden("the token is for a tenant that does not exist here", code="unknown_tenant")
            if len(self._tenants) >= _MAX_TENANTS:
                self._tenants.clear()
            self._tenants[name] = found
        return found


def _word(value: Any) -> str | None:
    """A text that can be stored as a name; None for anything else."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_WORD or "\0" in value:
        return None
    return value if value.isascii() or value.encode(errors="replace").decode() == value else None


def _scopes(value: Any) -> frozenset[str]:
    """Those that are ours; an issuer gives others, too, such as `openid`. What concerns all tenants is not his to give."""
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(word for word in words if isinstance(word, str) and word in SCOPES and word != OPERATE)
