"""Every setting, with its unit and default. The only reader of the environment.

Each is read from `GRISTMILL_<NAME>`; those marked with `_FILES` below also from a file named by `GRISTMILL_<NAME>_FILE`
(a mounted secret), whose text is used without the newline at its end.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "GRISTMILL_"
_FILES = frozenset(
    {
        "database_url",
        "database_listen_url",
        "api_key",
        "jwt_key",
        "secret_key",
        "llm_base_url",
        "llm_api_key",
        "public_url",
        "s3_access_key_id",
        "s3_secret_access_key",
    }
)


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
]  # fmt: skip


class _FromFiles(PydanticBaseSettingsSource):
    """Reads `GRISTMILL_<NAME>_FILE` for the settings that may be secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE") if field_name in _FILES else None
        return (Path(path).read_text().rstrip("\n") if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value is not None}


def _default_data_dir() -> Path:
    """As root a system folder (Postgres must not run as root and could not reach a root-only home), else the user's own."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/gristmill")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gristmill"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    # Where
    database_url: SecretStr | None = None  # unset: the embedded Postgres in data_dir
    data_dir: Path = Field(
        default_factory=_default_data_dir
    )  # embedded Postgres, files, the generated secret key
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    public_url: str | None = None  # start of absolute links; unset: http://host:port
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # Postgres
    database_pool_size: Annotated[int, Field(ge=2, le=200)] = (
        10  # connections for the engine and for hot reads
    )
    database_timeout_seconds: Annotated[float, Field(gt=0)] = (
        10.0  # for one statement; a half-open link shows within it
    )
    database_prepared_statements: bool = (
        True  # false behind a PgBouncer that does not keep them (before 1.21)
    )
    database_listen_url: SecretStr | None = None  # past a PgBouncer, for wake-ups; unset: as database_url
    migrate_on_start: bool = True  # `serve` and `worker` bring the database to this version's schema

    # Credentials
    api_key: SecretStr | None = (
        None  # accepted for the default tenant; unset: one is made on first start, shown once
    )
    secret_key: SecretStr | None = None  # encrypts secrets, peppers key hashes; required with database_url
    idempotency_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = (
        86_400  # an Idempotency-Key is remembered
    )

    # Tokens (JWT) of one issuer; unset: none are accepted
    jwt_issuer: str | None = None  # the `iss` of all of them
    jwt_audience: str | None = None  # must be in their `aud`
    jwt_algorithm: Algorithm | None = None  # no other is accepted
    jwt_key: SecretStr | None = None  # the public key as PEM; with HS…: the shared secret
    jwt_jwks_url: str | None = None  # in place of a key: where the issuer publishes its keys
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0  # for clocks that differ
    jwt_tenant_claim: str = "tenant"  # whose value is a tenant's name
    jwt_scopes_claim: str = "scope"  # words, or a list of them

    # What each tenant may have; unset: as much as it likes
    tenant_requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None  # of one process
    tenant_active_batches: Annotated[int, Field(ge=1)] | None = None  # that have not ended
    tenant_pending_requests: Annotated[int, Field(ge=1)] | None = None  # of batches, that have not ended
    tenant_stored_bytes: Annotated[int, Field(ge=1)] | None = None  # of its files

    # Work
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 256  # items in flight per worker process
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0  # without a heartbeat for so long, a worker is dead
    item_timeout_seconds: Annotated[float, Field(ge=1, le=3600)] = (
        300.0  # for one run of an item, unless its batch says
    )
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0  # between looks for work when nothing woke the worker
    drain_seconds: Annotated[float, Field(ge=0)] = 20.0  # on SIGTERM, for items in flight to finish

    # The model: any OpenAI-compatible endpoint
    llm_base_url: str | None = None  # such as https://api.openai.com/v1
    llm_api_key: SecretStr | None = None
    llm_model: str | None = None  # for agents that name none
    llm_messages: bool = False  # it serves Anthropic's /messages itself: nothing is translated
    llm_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64  # calls in flight per worker process
    llm_timeout_seconds: Annotated[float, Field(gt=0)] = 120.0  # for one call, from connect to the last byte
    adaptive_concurrency: bool = True  # false: as many calls at once as the settings say, however it goes
    breaker_faults: Annotated[int, Field(ge=0, le=100_000)] = (
        10  # items in a row that fail as in an outage: their endpoint is left alone; 0: never
    )
    breaker_probe_seconds: Annotated[float, Field(ge=0.1, le=300)] = 10.0  # between probes of it, at the most
    breaker_patience_seconds: Annotated[float, Field(ge=0)] = (
        3600.0  # errors and time-outs in an outage count as attempts after so long
    )
    llm_price_prompt: Annotated[float, Field(ge=0)] | None = None  # US dollars per 1,000,000 tokens
    llm_price_completion: Annotated[float, Field(ge=0)] | None = None

    # Files
    storage_url: str | None = None  # s3://bucket/prefix; unset: data_dir
    s3_endpoint_url: str | None = None  # unset: AWS
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = None  # unset: found as AWS's tools find theirs
    s3_secret_access_key: SecretStr | None = None
    s3_root: str | None = None  # s3://bucket/prefix: what may be named as a source; unset: nothing
    local_root: Path | None = None  # a folder of the workers: likewise
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30  # of batches after their end, unless they say
    file_retention_days: Annotated[int, Field(ge=1, le=3650)] | None = None  # unset: kept until deleted
    upload_max_bytes: Annotated[int, Field(ge=1)] = 2_000_000_000

    # Network
    allow_private_addresses: bool = (
        False  # http and private addresses for webhooks and URLs: for local work only
    )
    webhook_timeout_seconds: Annotated[float, Field(gt=0)] = (
        15.0  # for one POST, from connect to the last byte
    )
    body_max_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024  # of a JSON request
    bodies_max_bytes: Annotated[int, Field(ge=1)] = (
        256 * 1024 * 1024
    )  # of all JSON requests at work in a process

    @model_validator(mode="after")
    def _whole_jwt(self) -> Self:
        if mistake := _jwt_mistake(self):
            raise PydanticCustomError("jwt", mistake)
        return self

    @field_validator("public_url", "llm_base_url", "s3_endpoint_url")
    @classmethod
    def _without_slash(cls, url: str | None) -> str | None:
        return url.rstrip("/") if url else url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FromFiles(settings_cls)


def _jwt_mistake(given: Settings) -> LiteralString | None:
    """What is wrong with the settings for tokens, without any value."""
    named = (given.jwt_issuer, given.jwt_audience, given.jwt_algorithm)
    if not any((*named, given.jwt_key, given.jwt_jwks_url)):
        return None
    if not all(named) or (given.jwt_key is None) == (given.jwt_jwks_url is None):
        return "tokens need an issuer, an audience, an algorithm, and either a key or a JWKS URL"
    if given.jwt_jwks_url is not None:
        return _jwks_url_mistake(given)
    return _jwt_key_mistake(given)


def _jwks_url_mistake(given: Settings) -> LiteralString | None:
    url = given.jwt_jwks_url or ""
    if (given.jwt_algorithm or "").startswith("HS"):
        return "a shared secret (HS…) is not published: set a key in place of the JWKS URL"
    if not url.startswith("https://") and not (given.allow_private_addresses and url.startswith("http://")):
        return "the JWKS URL must begin with https://"
    return None


def _jwt_key_mistake(given: Settings) -> LiteralString | None:
    import jwt  # only who accepts tokens waits for it

    assert given.jwt_key is not None
    assert given.jwt_algorithm is not None
    try:
        algorithm = jwt.get_algorithm_by_name(given.jwt_algorithm)
        key = algorithm.prepare_key(given.jwt_key.get_secret_value())
        unfit = algorithm.check_key_length(key) is not None or hasattr(key, "private_bytes")
    except (jwt.PyJWTError, ValueError, TypeError):
        unfit = True
    if not unfit:
        return None
    return (
        "the key is not one for the algorithm: a public key as PEM, or for HS… a secret as long as its hash"
    )
