"""The one secret key: from the settings, or made once beside the embedded database."""

import os
import secrets
from pathlib import Path

from gristmill.cli.refusal import Refusal
from gristmill.settings import Settings
from gristmill.vault import Vault


def vault(settings: Settings) -> Vault:
    try:
        return Vault(_secret_key(settings))
    except ValueError as error:
        raise Refusal(f"GRISTMILL_SECRET_KEY: {error}") from None


def _secret_key(settings: Settings) -> bytes:
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    if settings.database_url is not None:
        raise Refusal(
            "set GRISTMILL_SECRET_KEY, the same for every process on this database: with GRISTMILL_DATABASE_URL none is "
            "generated. Make one with: openssl rand -base64 32"
        )
    return _kept(settings.data_dir / "secret_key")


def _kept(path: Path) -> bytes:
    """Made on first use. Under another name until it is complete: half a key would lock out what it encrypted."""
    if not path.exists():
        new = path.with_name("secret_key.new")
        new.unlink(missing_ok=True)
        with open(new, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    return path.read_bytes()
